// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "session/owner.h"

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "session/owner_connection.h"

namespace kvdirect {

namespace {
// Lease deadlines are set by other threads, which do not wake this one.
constexpr auto lease_interval = std::chrono::milliseconds(200);
constexpr std::size_t max_connections = 4096;
constexpr std::size_t max_unadmitted = 256;
// For a stranger's hello, and for a reader that was refused to go.
constexpr auto patience = std::chrono::seconds(10);
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
  _address = device_address(listen);
  Fd fd = listen_on(_address);
  _listener.start(thread.reactor(), std::move(fd),
                  [this](Fd connection) { receive_connection(std::move(connection)); });
}

void OwnerSessions::receive_connection(Fd fd) {
  make_room_for_one();
  if (_connections.size() >= max_connections) return;
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
  if (_unadmitted < max_unadmitted) return;
  const auto oldest = std::ranges::find_if(_connections, [](const auto& s) { return s->unadmitted && !s->lost; });
  if (oldest != _connections.end()) lose(**oldest);
  drop_lost();
}

void OwnerSessions::lose(OwnerConnection& connection) {
  if (std::exchange(connection.lost, true)) return;
  if (connection.unadmitted) --_unadmitted;
  _any_lost = true;
  if (connection.server) end_streams(connection);
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
  if (connection.lost) return;
  if (connection.leaving_for) throw Error(Errc::codec, "nothing follows the hello until it is answered");
  if (connection.unadmitted != (message == MessageId::hello))
    throw Error(Errc::codec, "the first message is the hello");
  // Refused, and has not gone yet.
  if (!connection.unadmitted && !connection.server) return;
  const bool of_data = message == MessageId::pull || message == MessageId::prove || message == MessageId::cancel || message == MessageId::bye;
  if (!_options.first && !of_data) throw Error(Errc::codec, "a session says this on its first connection only");
  switch (message) {
    case MessageId::hello: on_hello(connection, body); break;
    case MessageId::probe: on_probe(connection, body); break;
    case MessageId::pull: on_pull(connection, body, PullServer::Wanted::bytes); break;
    case MessageId::prove: on_pull(connection, body, PullServer::Wanted::digest); break;
    case MessageId::cancel: on_cancel(connection, body); break;
    case MessageId::renew: on_renew(connection, body); break;
    case MessageId::complete: on_complete(connection, body); break;
    case MessageId::bye: lose(connection); break;
    default: throw Error(Errc::codec, "no reader sends message " + std::to_string(static_cast<unsigned>(message)));
  }
}

void OwnerSessions::on_hello(OwnerConnection& connection, BytesView body) {
  const Hello hello = Hello::decode(body);
  // Without the secret there is no answer.
  if (!same_secret(hello.admission, _options.admission)) {
    ++_counters->bad_admission;
    lose(connection);
    return;
  }
  connection.unadmitted = false;
  --_unadmitted;
  auto refuse = objection(hello);
  if (!refuse && hello.stream > 0) refuse = join(connection, hello);
  if (refuse) {
    connection.stream.send(MessageId::refuse, refuse->encode());
    connection.patient_until = Clock::now() + patience;
  } else if (hello.stream == 0) {
    admit(connection, hello);
  }
}

std::optional<Refuse> OwnerSessions::objection(const Hello& hello) const {
  const auto differs = [](const std::string& field, std::uint64_t reader, std::uint64_t owner) {
    return Refuse{Errc::mismatch, field + " differs: the reader has " + std::to_string(reader) + ", the owner " +
                                      std::to_string(owner)};
  };
  if (hello.version != protocol_version) return differs("protocol version", hello.version, protocol_version);
  if (hello.owner_incarnation != _options.incarnation) {
    return Refuse{Errc::connect, "the engine of this descriptor is gone; another one listens in its place"};
  }
  return std::nullopt;
}

void OwnerSessions::admit(OwnerConnection& connection, const Hello& hello) {
  connection.reader = hello.reader_name;
  connection.nonce = random_token();
  connection.stream.set_max_message(limits::message);
  connection.server = std::make_unique<PullServer>(_context, connection.stream);
  const auto streams = static_cast<unsigned>(1 + _options.siblings.size());
  Welcome welcome{connection.nonce, streams, _options.host(), _options.rdma(), _options.shm(), _options.cuda()};
  if (welcome.host) {
    welcome.host->nonce_address = reinterpret_cast<std::uint64_t>(connection.nonce.data());
    welcome.host->nonce = connection.nonce;
  }
  connection.stream.send(MessageId::welcome, welcome.encode());
  ++_counters->sessions;
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
    if (!connection->server && connection->patient_until <= now) lose(*connection);
    if (!connection->admitted()) continue;
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
}

}  // namespace kvdirect
