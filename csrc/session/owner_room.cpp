// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <cstdint>
#include <map>
#include <string>

#include "session/owner_connection.h"

// Who may have one more session when all that readers may have is taken: nobody's excess keeps another out.
namespace kvdirect {

namespace {

std::string as_text(const Bytes& identity) { return {reinterpret_cast<const char*>(identity.data()), identity.size()}; }

template <typename Key>
Key most_frequent(const std::map<Key, std::size_t>& counts) {
  return std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; })->first;
}

}  // namespace

std::optional<Refuse> OwnerSessions::make_room_for(const OwnerConnection& newcomer) {
  if (_share->has_room()) return std::nullopt;
  OwnerConnection* const one_too_many = excess_over(newcomer);
  if (one_too_many == nullptr) return no_room();
  const Refuse why{Errc::peer_lost, "this reader has more sessions than another, who needs the room"};
  one_too_many->stream.send(MessageId::refuse, why.encode());
  lose(*one_too_many);
  return std::nullopt;
}

Refuse OwnerSessions::no_room() {
  ++_counters->refused_sessions;
  return {Errc::connect, _share->why_full()};
}

OwnerConnection* OwnerSessions::excess_over(const OwnerConnection& newcomer) {
  std::map<std::string, std::size_t> of_identity{{as_text(newcomer.identity), 0}};
  for (const auto& session : _connections) {
    if (session->admitted()) ++of_identity[as_text(session->identity)];
  }
  std::string whose = most_frequent(of_identity);
  const bool shares_fairly = of_identity[whose] <= of_identity[as_text(newcomer.identity)] + 1;
  if (shares_fairly) whose = as_text(newcomer.identity);
  std::map<std::uint64_t, std::size_t> of_reader;
  if (shares_fairly) of_reader[newcomer.reader_incarnation] = 0;
  for (const auto& session : _connections) {
    if (session->admitted() && as_text(session->identity) == whose) ++of_reader[session->reader_incarnation];
  }
  const std::uint64_t reader = most_frequent(of_reader);
  if (shares_fairly && of_reader[reader] <= of_reader[newcomer.reader_incarnation] + 1) return nullptr;
  // What has gone on for longer is more likely to be needed.
  const auto newest = std::find_if(_connections.rbegin(), _connections.rend(), [&](const auto& session) {
    return session->admitted() && as_text(session->identity) == whose && session->reader_incarnation == reader;
  });
  return newest->get();
}

}  // namespace kvdirect
