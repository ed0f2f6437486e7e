// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "reading.h"

#include <algorithm>
#include <utility>

namespace kvdirect {

namespace {

// The owner answers in a millisecond, or when a busy machine lets it; a stopped one must not keep this thread for long.
// Going on too early costs a retransmission: what UCX sends then is dropped.
constexpr auto first_vouch = std::chrono::milliseconds(100);

Error peer_error(Errc code, const Connection& connection, const std::string& operation, const std::string& message,
                 const std::string& status = {}, const std::string& hint = {}) {
  return {code, message, {.operation = operation, .peer = connection.peer, .status = status, .hint = hint}};
}

}  // namespace

void Reading::start(Progress& progress) {
  _progress = &progress;
  on(MessageId::welcome, &Reading::on_welcome);
  on(MessageId::refuse, &Reading::on_refuse);
  on(MessageId::proof, &Reading::on_proof);
  on(MessageId::verdict, &Reading::on_verdict);
  on(MessageId::bye, &Reading::on_bye);
  progress.reading()->on_message(static_cast<unsigned>(MessageId::data), [this](BytesView header, BytesView body) {
    try {
      on_data(header, body);
    } catch (const std::exception&) {
      ++_counters->bad_message;
    }
  });
}

void Reading::on(MessageId message, Handler handler) {
  _progress->reading()->on_message(static_cast<unsigned>(message), [this, handler](BytesView header, BytesView body) {
    try {
      if (Connection* connection = find(Stamp::decode(header))) (this->*handler)(*connection, body);
    } catch (const std::exception&) {
      ++_counters->bad_message;
    }
  });
}

Connection* Reading::find(const Stamp& stamp) {
  const auto found = _connections.find(stamp.receiver);
  if (found != _connections.end() && same_secret(found->second->token, stamp.token)) return found->second.get();
  ++_counters->bad_token;
  return nullptr;
}

void Reading::open(const std::shared_ptr<Connection>& connection, const Descriptor& owner) {
  if (_stopped) {
    lose(*connection, peer_error(Errc::closed, *connection, "connect", "the engine was closed"));
    return;
  }
  connection->token = random_token();
  _connections[connection->id] = connection;
  try {
    connection->endpoint = std::make_unique<ucx::Endpoint>(
        _progress->reading(), owner.worker_address, connection->peer,
        [this, raw = connection.get()](ucs_status_t status) {
          lose(*raw, peer_error(Errc::peer_lost, *raw, "message", "the owner went away", ucs_status_string(status),
                                "connect again once it is back"));
        });
    Hello hello;
    hello.owner_incarnation = connection->incarnation;
    hello.reader_incarnation = _self.incarnation;
    hello.reader_name = _self.name;
    hello.admission = owner.admission;
    hello.segment_bytes = _self.segment_bytes;
    hello.reader_id = connection->id;
    hello.challenge = connection->token;
    hello.worker_address = _progress->reading()->address();
    connection->endpoint->send(static_cast<unsigned>(MessageId::hello), {}, hello.encode());
    // UCX has opened its connection and not sent on it yet: vouched for now, nothing has to be sent twice.
    connection->knock->vouch(Clock::now() + first_vouch);
  } catch (const Error& error) {
    lose(*connection, error);
  }
  _progress->tick_by(connection->hello_deadline);
}

void Reading::on_welcome(Connection& connection, BytesView body) {
  if (!connection.welcomed) return;
  connection.welcome = Welcome::decode(body);
  connection.token = connection.welcome.token;
  connection.transports = connection.endpoint->transports();
  connection.alive = true;
  auto promise = std::move(*connection.welcomed);
  connection.welcomed.reset();
  promise.set_value();
}

void Reading::on_refuse(Connection& connection, BytesView body) {
  const Refuse refuse = Refuse::decode(body);
  lose(connection, peer_error(refuse.code, connection, "connect", refuse.reason));
}

void Reading::probe(Connection& connection, std::promise<Proof> promise) {
  if (!connection.alive) {
    promise.set_exception(std::make_exception_ptr(peer_error(Errc::peer_lost, connection, "probe", "it is gone")));
    return;
  }
  connection.proving = std::move(promise);
  connection.send(MessageId::probe, {});
}

void Reading::on_proof(Connection& connection, BytesView body) {
  const Proof proof = Proof::decode(body);
  if (!connection.proving) return;
  connection.proving->set_value(proof);
  connection.proving.reset();
}

void Reading::on_bye(Connection& connection, BytesView /*body*/) {
  lose(connection, peer_error(Errc::peer_lost, connection, "message", "the owner closed the session"));
}

void Reading::lose(Connection& connection, const Error& why) {
  if (std::exchange(connection.lost, true)) return;
  connection.alive = false;
  const auto failure = std::make_exception_ptr(why);
  if (connection.welcomed) {
    const bool unreachable = why.code() == Errc::peer_lost || why.code() == Errc::transport;
    connection.welcomed->set_exception(
        unreachable ? std::make_exception_ptr(peer_error(
                          Errc::connect, connection, "connect", "the owner could not be reached", why.context().status,
                          "check that it runs and that its listen device is reachable from here"))
                    : failure);
    connection.welcomed.reset();
  }
  if (connection.proving) {
    connection.proving->set_exception(failure);
    connection.proving.reset();
  }
  for (const auto& [id, running] : connection.running) {
    running.pull->fail(running.pull->error(why.code(), std::string("failed: ") + why.what(), why.context().status));
    running.pull->set_quiet();
  }
  for (const auto& pull : connection.waiting) {
    pull->fail(pull->error(why.code(), std::string("failed: ") + why.what(), why.context().status));
    pull->set_quiet();
  }
  connection.running.clear();
  connection.waiting.clear();
  connection.holds.clear();
  const auto found = _connections.find(connection.id);
  if (found == _connections.end()) return;
  _lost.push_back(std::move(found->second));
  _connections.erase(found);
}

void Reading::leave(const std::shared_ptr<Connection>& connection, const Error& why) {
  if (connection->lost) return;
  if (connection->alive) connection->send(MessageId::bye, {});
  lose(*connection, why);
}

void Reading::hold(Connection& connection, LeaseRef lease, double term, double affirm_within) {
  if (connection.lost) return;
  const auto now = Clock::now();
  Connection::Hold& hold = connection.holds[{lease.slot, lease.epoch}];
  hold.term = term;
  hold.affirm_within = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(affirm_within));
  hold.affirmed = now;
  renew(connection, lease, hold, now);
}

void Reading::renew(Connection& connection, LeaseRef lease, Connection::Hold& hold, Clock::time_point now) {
  connection.send(MessageId::renew, Renew{lease, hold.term}.encode());
  ++_counters->renewals;
  hold.next_renew = now + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(hold.term / 3));
  _progress->tick_by(hold.next_renew);
}

void Reading::affirm(Connection& connection, LeaseRef lease) {
  const auto found = connection.holds.find({lease.slot, lease.epoch});
  if (found != connection.holds.end()) found->second.affirmed = Clock::now();
}

void Reading::drop(Connection& connection, LeaseRef lease) { connection.holds.erase({lease.slot, lease.epoch}); }

void Reading::complete(Connection& connection, LeaseRef lease, std::uint32_t readers) {
  drop(connection, lease);
  if (!connection.lost) connection.send(MessageId::complete, Complete{lease, readers}.encode());
}

bool Reading::pump() {
  if (_lost.empty()) return false;
  // Closed here, whoever else still holds the connection: endpoints belong to this thread.
  for (const auto& connection : _lost) connection->endpoint.reset();
  _lost.clear();
  return true;
}

Clock::time_point Reading::tick(Clock::time_point now) {
  auto next = Clock::time_point::max();
  const auto due = [&](Clock::time_point when) {
    if (when > now) next = std::min(next, when);
    return when <= now;
  };
  std::vector<std::shared_ptr<Connection>> silent;
  for (const auto& [id, connection] : _connections) {
    if (connection->welcomed && due(connection->hello_deadline)) silent.push_back(connection);
    std::erase_if(connection->holds,
                  [&](const auto& entry) { return entry.second.affirmed + entry.second.affirm_within <= now; });
    for (auto& [key, hold] : connection->holds) {
      if (due(hold.next_renew)) renew(*connection, {key.first, key.second}, hold, now);
    }
    std::vector<const Pull*> late;
    const auto look = [&](const std::shared_ptr<Pull>& pull) {
      if (!due(pull->job().deadline)) return;
      pull->fail(pull->error(Errc::timeout, "did not finish by its deadline"));
      late.push_back(pull.get());
    };
    for (const auto& [number, running] : connection->running) look(running.pull);
    for (const auto& pull : connection->waiting) look(pull);
    for (const Pull* pull : late) forget(*connection, pull);
  }
  for (const auto& connection : silent) {
    lose(*connection, peer_error(Errc::connect, *connection, "connect", "the owner did not answer in time",
                                 connection->knock->progress(),
                                 "it may be busy, stopped, or the descriptor may be of an engine that is gone"));
  }
  return next;
}

void Reading::stop() {
  _stopped = true;
  const auto connections = _connections;
  for (const auto& [id, connection] : connections) {
    leave(connection, peer_error(Errc::closed, *connection, "close", "the engine was closed"));
  }
  pump();
}

}  // namespace kvdirect
