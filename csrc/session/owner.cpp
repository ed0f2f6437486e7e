// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "session/owner.h"

#include <algorithm>
#include <utility>

#include "session/owner_connection.h"

namespace kvdirect {

namespace {
// Lease deadlines are set by other threads, which do not wake this one.
constexpr auto lease_interval = std::chrono::milliseconds(200);
// Sent in one turn, to all readers together, before what they say meanwhile is heard: renewals, too.
constexpr int messages_per_turn = 16;
}  // namespace

OwnerSessions::OwnerSessions(Options options, std::shared_ptr<LeaseTable> leases, std::shared_ptr<Counters> counters)
    : _options(std::move(options)),
      _leases(std::move(leases)),
      _counters(std::move(counters)),
      _context{_leases,        _counters,        _options.published, _options.segment_bytes,
               _options.first, _options.extents, _options.budget} {}

OwnerSessions::~OwnerSessions() = default;

void OwnerSessions::start(EventThread& thread, const std::string& listen) {
  _event_thread = &thread;
  // The table outlives this thread: a late call finds the queue closed.
  _leases->on_change([this, commands = thread.commands(), any_waits = _context.any_waits] {
    if (any_waits->exchange(false)) commands->post([this] { look_again(); });
  });
  if (!_options.first) return;
  _share.emplace();
  _address = device_address(listen);
  Fd fd = listen_on(_address);
  _listener.start(thread.reactor(), std::move(fd),
                  [this](Fd connection) { receive_connection(std::move(connection)); });
}

void OwnerSessions::receive_connection(Fd fd) {
  make_room_for_one();
  try {
    _connections.push_back(std::make_unique<OwnerConnection>(*this, std::move(fd), limits::hello));
    _connections.back()->patient_until = Clock::now() + patience;
    ++_unadmitted;
  } catch (const std::exception&) {
    ++_counters->bad_message;
  }
}

// Strangers that only sit there must not keep readers out.
void OwnerSessions::make_room_for_one() {
  if (_unadmitted < DescriptorShare::unadmitted()) return;
  const auto oldest = std::ranges::find_if(_connections, [](const auto& s) { return !s->admitted() && !s->lost; });
  if (oldest != _connections.end()) lose(**oldest);
  drop_lost();
}

void OwnerSessions::lose(OwnerConnection& connection) {
  if (std::exchange(connection.lost, true)) return;
  if (connection.stage != OwnerConnection::Stage::admitted) --_unadmitted;
  _any_lost = true;
  if (!connection.server) return;
  if (_share) _share->give_back(1 + connection.streams.count());
  for (const Token& secret : connection.secrets) _options.forget_secret(secret);
  end_streams(connection);
}

void OwnerSessions::serve(OwnerConnection& connection) {
  if (connection.lost) return;
  connection.stream.flush();
  try {
    connection.stream.receive(connection);
    if (connection.leaving_for && !connection.lost) hand_over(connection);
  } catch (const Error& error) {
    if (error.code() == Errc::codec) {
      ++_counters->bad_message;
      connection.carried_data = true;
    }
    lose(connection);
  } catch (const std::exception&) {
    lose(connection);
  }
}

void OwnerSessions::on_message(OwnerConnection& connection, MessageId message, BytesView body) {
  if (connection.lost || connection.stage == OwnerConnection::Stage::refused) return;
  if (!connection.admitted()) return hear_unadmitted(connection, message, body);
  const bool of_data = message == MessageId::pull || message == MessageId::prove || message == MessageId::cancel ||
                       message == MessageId::bye;
  if (!_options.first && !of_data) throw Error(Errc::codec, "a session says this on its first connection only");
  switch (message) {
    case MessageId::probe: on_probe(connection, body); break;
    case MessageId::pull: on_pull(connection, body, PullServer::Wanted::bytes); break;
    case MessageId::prove: on_pull(connection, body, PullServer::Wanted::digest); break;
    case MessageId::cancel: on_cancel(connection, body); break;
    case MessageId::renew: on_renew(connection, body); break;
    case MessageId::complete: on_complete(connection, body); break;
    case MessageId::note: on_note(connection, body); break;
    case MessageId::bye: lose(connection); break;
    default: throw Error(Errc::codec, "no reader sends message " + std::to_string(static_cast<unsigned>(message)));
  }
}

void OwnerSessions::on_probe(OwnerConnection& connection, BytesView body) {
  if (!body.empty()) throw Error(Errc::codec, "a probe has no body");
  connection.stream.send(MessageId::proof, Proof{_options.incarnation, connection.nonce}.encode());
}

void OwnerSessions::on_pull(OwnerConnection& connection, BytesView body, PullServer::Wanted wanted) {
  connection.carried_data = true;
  connection.server->accept(PullRequest::decode(body), wanted);
  schedule(connection);
}

// Once its server took something in, or looked again.
void OwnerSessions::schedule(OwnerConnection& connection) {
  _event_thread->tick_by(connection.server->next_look());
  if (connection.server->sending() && !std::exchange(connection.in_turn, true)) _in_turn.push_back(&connection);
}

// Once a lease changed.
void OwnerSessions::look_again() {
  for (const auto& connection : _connections) {
    if (!connection->admitted()) continue;
    connection->server->look_again(Clock::now());
    schedule(*connection);
  }
}

void OwnerSessions::on_cancel(OwnerConnection& connection, BytesView body) {
  connection.server->cancel(Cancel::decode(body).pull);
}

void OwnerSessions::on_renew(OwnerConnection& /*connection*/, BytesView body) {
  const Renew renew = Renew::decode(body);
  if (!_leases->renew(renew.lease, LeaseTable::Seconds(renew.term))) ++_counters->stale_epoch;
}

void OwnerSessions::on_complete(OwnerConnection& /*connection*/, BytesView body) {
  const Complete complete = Complete::decode(body);
  if (!_leases->complete(complete.lease, complete.readers)) ++_counters->stale_epoch;
}

void OwnerSessions::on_note(OwnerConnection& connection, BytesView body) {
  Note note = Note::decode(body);
  const bool kept =
      _options.notes->put(connection.nonce, {connection.reader, connection.reader_incarnation, std::move(note.body)});
  ++(kept ? _counters->notes : _counters->notes_dropped);
}

bool OwnerSessions::drop_lost() {
  if (!std::exchange(_any_lost, false)) return false;
  std::erase_if(_in_turn, [](const OwnerConnection* connection) { return connection->lost; });
  _connections.remove_if([this](const auto& connection) {
    if (connection->lost && connection->server && _options.first) ++_counters->sessions_ended;
    return connection->lost;
  });
  return true;
}

bool OwnerSessions::poll() {
  const bool dropped = drop_lost();
  int sent = 0;
  // One message each keeps a large pull of one reader from delaying the others. Who cannot send waits its turn, too.
  for (std::size_t waiting = 0; sent < messages_per_turn && waiting < _in_turn.size();) {
    OwnerConnection* const connection = _in_turn.front();
    _in_turn.pop_front();
    const bool sends = connection->server->poll();
    connection->in_turn = connection->server->sending();
    if (connection->in_turn) _in_turn.push_back(connection);
    if (sends) ++sent;
    waiting = sends ? 0 : waiting + (connection->in_turn ? 1 : 0);
  }
  return dropped || sent > 0;
}

OwnerSessions::Clock::time_point OwnerSessions::tick(Clock::time_point now) {
  // Where there is nobody to serve, only the first has anything to look at.
  if (!_options.first && _connections.empty()) return Clock::time_point::max();
  auto next = now + lease_interval;
  if (_options.first) {
    if (const auto due = _leases->expire(now)) next = std::min(next, std::max(*due, now));
    _listener.tick();
    _context.extents->sweep();
  }
  for (const auto& connection : _connections) {
    if (!connection->admitted()) {
      if (connection->patient_until <= now) lose(*connection);
      continue;
    }
    if (connection->server->next_look() <= now) {
      connection->server->look_again(now);
      schedule(*connection);
    }
    next = std::min(next, connection->server->next_look());
  }
  return next;
}

void OwnerSessions::stop() {
  _stopped = true;
  _listener.stop();
  _leases->revoke_all();
  for (const auto& connection : _connections) {
    if (connection->admitted()) connection->stream.send(MessageId::bye, {});
    lose(*connection);
  }
  drop_lost();
  _share.reset();
}

}  // namespace kvdirect
