// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "session/reader.h"

#include <algorithm>
#include <utility>

#include "base/seconds.h"
#include "wire/admission.h"

namespace kvdirect {

namespace {

// For the goodbye to arrive.
constexpr auto lingering_time = std::chrono::milliseconds(300);
// Seconds. A lease held for less would be renewed without a pause.
constexpr double shortest_term = 0.1;

// Of an owner that stands still.
constexpr std::size_t most_unsent = std::size_t{1} << 20;

Error peer_error(Errc code, const ReaderConnection& connection, const std::string& operation,
                 const std::string& message, const std::string& status = {}, const std::string& hint = {}) {
  return {code, message, {.operation = operation, .peer = connection.peer, .status = status, .hint = hint}};
}

}  // namespace

class ReaderSessions::StreamHandler final : public StreamListener {
 public:
  StreamHandler(ReaderSessions& reader, ReaderConnection& connection) : _reader(reader), _connection(connection) {}
  void on_message(MessageId message, BytesView body) override { _reader.on_message(_connection, message, body); }
  std::size_t place(const DataHeader& data, std::uint64_t bytes, std::span<iovec> parts) override {
    return _connection.client ? _connection.client->place(data, bytes, parts) : 0;
  }
  void landed(const DataHeader& data, std::uint64_t bytes) override { _connection.client->landed(data, bytes); }

 private:
  ReaderSessions& _reader;
  ReaderConnection& _connection;
};

void ReaderSessions::start(EventThread& thread) { _event_thread = &thread; }

void ReaderSessions::open(ReaderConnection& connection, const Descriptor& owner, Fd fd) {
  if (_stopped) {
    lose(connection, peer_error(Errc::closed, connection, "connect", "the engine was closed"));
    return;
  }
  _connections.insert(connection.shared_from_this());
  try {
    connection.listener = std::make_unique<StreamHandler>(*this, connection);
    auto stream = std::make_unique<Stream>(_event_thread->reactor(), std::move(fd), limits::welcome,
                                           [this, weak = connection.weak_from_this()](std::uint32_t) {
                                             if (const auto known = weak.lock()) serve(known);
                                           });
    connection.client = std::make_unique<PullClient>(*stream, *_counters);
    connection.stream = std::move(stream);
    Hello hello;
    hello.owner_incarnation = connection.incarnation;
    hello.reader_incarnation = _incarnation;
    hello.reader_name = _name;
    hello.identity = owner.admission.identity;
    hello.stream = connection.stream_number;
    hello.session = connection.session;
    hello.not_after = owner.admission.not_after;
    hello.nonce = random_nonce();
    connection.key = owner.admission.key;
    connection.hello = hello.encode();
    connection.send(MessageId::hello, connection.hello);
  } catch (const Error& error) {
    lose(connection, error);
  }
  _event_thread->tick_by(connection.hello_deadline);
}

void ReaderSessions::serve(const std::shared_ptr<ReaderConnection>& connection) {
  if (connection->lost) return;
  connection->stream->flush();
  connection->client->ask();
  try {
    connection->stream->receive(*connection->listener);
  } catch (const Error& error) {
    if (error.code() == Errc::codec) ++_counters->bad_message;
    const bool nonsense = error.code() == Errc::codec;
    lose(*connection,
         peer_error(Errc::peer_lost, *connection, "message",
                    nonsense ? "the owner sends what makes no sense" : "the owner went away",
                    nonsense ? error.what() : error.context().status,
                    nonsense ? "something else may listen at its address" : "connect again once it is back"));
  }
}

void ReaderSessions::on_message(ReaderConnection& connection, MessageId message, BytesView body) {
  // Messages behind the one that ended the session mean nothing any more.
  if (connection.lost) return;
  switch (message) {
    case MessageId::challenge: on_challenge(connection, body); break;
    case MessageId::welcome: on_welcome(connection, body); break;
    case MessageId::refuse: on_refuse(connection, body); break;
    case MessageId::proof: on_proof(connection, body); break;
    case MessageId::verdict: connection.client->on_verdict(Verdict::decode(body)); break;
    case MessageId::digest: connection.client->on_proven(Proven::decode(body)); break;
    case MessageId::bye:
      lose(connection, peer_error(Errc::peer_lost, connection, "message", "the owner closed the session"));
      break;
    default: throw Error(Errc::codec, "no owner sends message " + std::to_string(static_cast<unsigned>(message)));
  }
}

void ReaderSessions::on_challenge(ReaderConnection& connection, BytesView body) {
  const Nonce nonce = Challenge::decode(body).nonce;
  if (std::exchange(connection.challenge, nonce)) throw Error(Errc::codec, "a second challenge");
  connection.send(MessageId::answer, Answer{reader_proof(connection.key, connection.hello, nonce)}.encode());
}

void ReaderSessions::on_welcome(ReaderConnection& connection, BytesView body) {
  if (!connection.welcomed) return;
  auto welcome = connection.challenge ? opened_welcome(connection.key, connection.hello, *connection.challenge, body)
                                      : std::nullopt;
  if (!welcome) {
    lose(connection, peer_error(Errc::connect, connection, "connect",
                                "whoever answers at the owner's address does not have the owner's secret", {},
                                "another process may have taken the port over, or something on the way changes what "
                                "is sent"));
    return;
  }
  connection.welcome = *std::move(welcome);
  if (connection.stream_number > 0 && !same_secret(connection.welcome.nonce, connection.session)) {
    throw Error(Errc::codec, "the welcome is of another session");
  }
  connection.alive = true;
  auto promise = std::move(*connection.welcomed);
  connection.welcomed.reset();
  promise.set_value();
}

void ReaderSessions::on_refuse(ReaderConnection& connection, BytesView body) {
  const Refuse refuse = Refuse::decode(body);
  lose(connection, peer_error(refuse.code, connection, "connect", refuse.reason));
}

void ReaderSessions::begin(ReaderConnection& connection, Stripe stripe) {
  if (!connection.client) {
    stripe.fail(stripe.pull().error(Errc::peer_lost, "could not start: the owner went away"));
    stripe.set_quiet();
    return;
  }
  _event_thread->tick_by(stripe.pull().job().deadline);
  connection.client->begin(std::move(stripe));
}

void ReaderSessions::forget(ReaderConnection& connection, const std::shared_ptr<Pull>& pull) {
  if (connection.client) connection.client->forget(pull.get());
}

void ReaderSessions::probe(ReaderConnection& connection, std::promise<Proof> promise) {
  if (!connection.alive) {
    promise.set_exception(std::make_exception_ptr(peer_error(Errc::peer_lost, connection, "probe", "it is gone")));
    return;
  }
  connection.proving = std::move(promise);
  connection.send(MessageId::probe, {});
}

void ReaderSessions::on_proof(ReaderConnection& connection, BytesView body) {
  const Proof proof = Proof::decode(body);
  if (!connection.proving) return;
  connection.proving->set_value(proof);
  connection.proving.reset();
}

void ReaderSessions::lose(ReaderConnection& connection, const Error& why) {
  if (std::exchange(connection.lost, true)) return;
  connection.alive = false;
  const auto failure = std::make_exception_ptr(why);
  if (connection.welcomed) {
    const bool cut_off = why.code() == Errc::peer_lost || why.code() == Errc::transport;
    connection.welcomed->set_exception(
        cut_off
            ? std::make_exception_ptr(peer_error(
                  Errc::connect, connection, "connect", "the owner ended the connection", why.context().status,
                  "the descriptor's secret must be the owner's: fetch a fresh descriptor; or the owner has just ended"))
            : failure);
    connection.welcomed.reset();
  }
  if (connection.proving) {
    connection.proving->set_exception(failure);
    connection.proving.reset();
  }
  if (connection.client) connection.client->lose(why);
  connection.client.reset();
  connection.holds.clear();
  const auto known = connection.shared_from_this();
  if (_connections.erase(known) > 0) _lost.push_back(known);
  if (const auto on_lost = std::exchange(connection.on_lost, nullptr)) on_lost(why);
}

void ReaderSessions::join(ReaderConnection& connection, std::function<void(const Error& why)> on_lost) {
  if (connection.lost) {
    on_lost(peer_error(Errc::peer_lost, connection, "connect", "the owner went away"));
  } else {
    connection.on_lost = std::move(on_lost);
  }
}

void ReaderSessions::leave(ReaderConnection& connection, const Error& why) {
  if (connection.lost) return;
  connection.send(MessageId::bye, {});
  lose(connection, why);
}

void ReaderSessions::hold(ReaderConnection& connection, LeaseRef lease, double term, double affirm_within) {
  if (connection.lost) return;
  const auto now = Clock::now();
  ReaderConnection::Hold& hold = connection.holds[{lease.slot, lease.epoch}];
  hold.term = std::clamp(term, shortest_term, limits::renew_term);
  hold.affirm_within = bounded(affirm_within);
  hold.affirmed = now;
  renew(connection, lease, hold, now);
}

void ReaderSessions::renew(ReaderConnection& connection, LeaseRef lease, ReaderConnection::Hold& hold,
                           Clock::time_point now) {
  connection.send(MessageId::renew, Renew{lease, hold.term}.encode());
  ++_counters->renewals;
  hold.next_renew = now + bounded(hold.term / 3);
  _event_thread->tick_by(hold.next_renew);
}

void ReaderSessions::affirm(ReaderConnection& connection, LeaseRef lease) {
  const auto found = connection.holds.find({lease.slot, lease.epoch});
  if (found != connection.holds.end()) found->second.affirmed = Clock::now();
}

void ReaderSessions::drop(ReaderConnection& connection, LeaseRef lease) {
  connection.holds.erase({lease.slot, lease.epoch});
}

void ReaderSessions::complete(ReaderConnection& connection, LeaseRef lease, std::uint32_t readers) {
  drop(connection, lease);
  connection.send(MessageId::complete, Complete{lease, readers}.encode());
}

void ReaderSessions::note(ReaderConnection& connection, const Note& note) {
  if (connection.lost) return;
  if (connection.stream->backlog() > most_unsent) {
    ++_counters->notes_dropped;
    return;
  }
  connection.send(MessageId::note, note.encode());
}

void ReaderSessions::poll() {
  // Whoever else still holds the connection: its stream belongs to this thread.
  for (const auto& connection : std::exchange(_lost, {})) {
    if (!connection->stream) continue;
    // Closed only when the owner has closed its side: a close over unread data would take back what we said last.
    connection->stream->finish();
    _lingering.push_back({std::move(connection->stream), Clock::now() + lingering_time});
    _event_thread->tick_by(_lingering.back().deadline);
  }
  _lingering.remove_if([](const Lingering& lingering) {
    // Also while the thread winds down, when nothing ticks any more: streams must not outlive their reactor.
    if (Clock::now() >= lingering.deadline) return true;
    lingering.stream->flush();
    return !lingering.stream->drain();
  });
}

Clock::time_point ReaderSessions::tick(Clock::time_point now) {
  auto next = Clock::time_point::max();
  const auto due = [&](Clock::time_point when) {
    if (when > now) next = std::min(next, when);
    return when <= now;
  };
  _lingering.remove_if([&](const Lingering& lingering) { return due(lingering.deadline); });
  std::vector<std::shared_ptr<ReaderConnection>> silent;
  for (const auto& connection : _connections) {
    if (connection->welcomed && due(connection->hello_deadline)) silent.push_back(connection);
    std::erase_if(connection->holds,
                  [&](const auto& entry) { return entry.second.affirmed + entry.second.affirm_within <= now; });
    for (auto& [key, hold] : connection->holds) {
      if (due(hold.next_renew)) renew(*connection, {key.first, key.second}, hold, now);
    }
    if (connection->client) next = std::min(next, connection->client->tick(now));
  }
  for (const auto& connection : silent) {
    lose(*connection, peer_error(Errc::connect, *connection, "connect", "the owner did not answer in time",
                                 "connected, no answer yet",
                                 "it may be busy, stopped, or the descriptor may be of an engine that is gone"));
  }
  return next;
}

void ReaderSessions::stop() {
  _stopped = true;
  const auto connections = _connections;
  for (const auto& connection : connections) {
    leave(*connection, peer_error(Errc::closed, *connection, "close", "the engine was closed"));
  }
  poll();
}

}  // namespace kvdirect
