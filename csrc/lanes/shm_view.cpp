// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/shm_view.h"

#include <sys/socket.h>

#include <utility>

#include "error.h"
#include "unix_socket.h"

namespace kvdirect {

ShmView::ShmView(const ShmAccess& access, const std::vector<std::uint64_t>& region_bytes,
                 std::chrono::steady_clock::time_point deadline)
    : _visit(connect_at(access.path)) {
  const auto refuse = [](const std::string& why) { return Error(Errc::lane, "shm does not work: " + why); };
  if (!same_user(_visit.get())) throw refuse("another user listens at the owner's socket " + access.path);
  if (access.regions.size() != region_bytes.size()) throw refuse("the owner's welcome and descriptor disagree");
  if (access.words > LeaseTable::max_slots) throw refuse("the owner names more lease slots than there can be");
  const auto sent = send(_visit.get(), access.ticket.data(), access.ticket.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(access.ticket.size())) throw refuse("the owner's socket closed");
  auto descriptors = receive_descriptors(_visit.get(), access.memories.size() + 1, deadline);
  _board = std::make_unique<MappedMemory>(std::move(descriptors.front()), Board::bytes(access.words));
  const std::byte* board = _board->bytes().data();
  _head = reinterpret_cast<const Board::Head*>(board);
  _words = {reinterpret_cast<const LeaseWord*>(board + Board::words_offset), access.words};
  for (std::size_t i = 0; i < access.memories.size(); ++i) {
    _memories.push_back(std::make_unique<MappedMemory>(std::move(descriptors[i + 1]), access.memories[i]));
  }
  for (std::size_t i = 0; i < region_bytes.size(); ++i) {
    const ShmAccess::Place& place = access.regions[i];
    const auto bytes = _memories.at(place.memory)->bytes();
    if (place.offset > bytes.size() || region_bytes[i] > bytes.size() - place.offset) {
      throw refuse("the owner's region " + std::to_string(i) + " ends outside its memory");
    }
    _regions.push_back(bytes.data() + place.offset);
  }
}

bool ShmView::owner_alive() const noexcept {
  char byte = 0;
  // Nothing more is ever sent: what can be read is the end.
  return recv(_visit.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
}

}  // namespace kvdirect
