// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <utility>

#include "session/owner_connection.h"

// The further connections of a session: the first thread admits them and hands them to its siblings.
namespace kvdirect {

OwnerConnection* OwnerSessions::find(const Token& nonce) {
  const auto found = std::ranges::find_if(_connections, [&](const auto& connection) {
    return connection->admitted() && same_secret(connection->nonce, nonce);
  });
  return found == _connections.end() ? nullptr : found->get();
}

std::optional<Refuse> OwnerSessions::join(OwnerConnection& stream, const Hello& hello) {
  if (hello.stream > _options.siblings.size()) {
    return Refuse{Errc::connect, "it asks for stream " + std::to_string(hello.stream) +
                                     " of a session; this owner takes " + std::to_string(_options.siblings.size() + 1)};
  }
  OwnerConnection* const connection = find(hello.session);
  // Another's pass lets nobody into this session, whose nonce is no secret.
  if (connection == nullptr || connection->identity != hello.identity) {
    ++_counters->bad_token;
    return Refuse{Errc::connect, "there is no such session"};
  }
  if (connection->streams.test(hello.stream)) {
    return Refuse{Errc::connect, "the session has its stream " + std::to_string(hello.stream) + " already"};
  }
  if (!_share->has_room()) return no_room();
  _share->take();
  connection->streams.set(hello.stream);
  stream.nonce = connection->nonce;
  stream.reader = hello.reader_name;
  stream.leaving_for = hello.stream;
  Welcome welcome;
  welcome.nonce = stream.nonce;
  stream.welcome = sealed(stream, hello, welcome);
  return std::nullopt;
}

void OwnerSessions::hand_over(OwnerConnection& stream) {
  const unsigned number = *stream.leaving_for;
  const auto end = [this, home = _event_thread->commands(), nonce = stream.nonce] {
    home->post([this, nonce] { this->end(nonce); });
  };
  // Shared, because a command must be copyable.
  const auto fd = std::make_shared<Fd>(stream.stream.release());
  lose(stream);
  const Sibling& sibling = _options.siblings[number - 1];
  const bool posted = sibling.commands->post([owner = sibling.owner, fd, reader = stream.reader, nonce = stream.nonce,
                                              welcome = stream.welcome,
                                              end] { owner->adopt(std::move(*fd), reader, nonce, welcome, end); });
  if (!posted) end();
}

void OwnerSessions::adopt(Fd fd, const std::string& reader, const Token& nonce, const Bytes& welcome,
                          const std::function<void()>& on_lost) {
  if (_stopped) return on_lost();
  try {
    auto connection = std::make_unique<OwnerConnection>(*this, std::move(fd), limits::message);
    connection->stage = OwnerConnection::Stage::admitted;
    connection->reader = reader;
    connection->nonce = nonce;
    connection->server = std::make_unique<PullServer>(_context, connection->stream);
    connection->on_lost = on_lost;
    connection->stream.send(MessageId::welcome, welcome);
    _connections.push_back(std::move(connection));
    _event_thread->tick_by(Clock::now());
  } catch (const std::exception&) {
    // The reader sees it closed, and goes on without.
  }
}

void OwnerSessions::end(const Token& nonce) {
  OwnerConnection* const connection = find(nonce);
  if (connection == nullptr) return;
  connection->stream.send(MessageId::bye, {});
  lose(*connection);
}

void OwnerSessions::end_streams(OwnerConnection& connection) {
  for (std::size_t number = 1; number <= _options.siblings.size(); ++number) {
    if (!connection.streams.test(number)) continue;
    const Sibling& sibling = _options.siblings[number - 1];
    sibling.commands->post([owner = sibling.owner, nonce = connection.nonce] { owner->end(nonce); });
  }
  // One that carried nothing may be one that its reader gave up before it was let in; whoever needs it notices its end.
  if (const auto on_lost = std::exchange(connection.on_lost, nullptr); on_lost && connection.carried_data) on_lost();
}

}  // namespace kvdirect
