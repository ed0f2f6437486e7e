// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "serving.h"

#include <algorithm>
#include <utility>

#include "random.h"

namespace kvdirect {

namespace {
// Lease deadlines are set by other threads, which do not wake this one.
constexpr auto lease_interval = std::chrono::milliseconds(200);
constexpr std::size_t max_sessions = 4096;
constexpr std::size_t max_waiting_hellos = 256;
}  // namespace

Serving::Serving(Self self, std::shared_ptr<LeaseTable> leases, std::shared_ptr<Counters> counters)
    : _self(std::move(self)),
      _leases(std::move(leases)),
      _counters(std::move(counters)),
      _context{_leases, _counters, _self.published, _self.segment_bytes, LeaseExtents(_leases)} {}

void Serving::start(Progress& progress) {
  _progress = &progress;
  _gate =
      std::make_unique<Gate>(progress.serving_address(), progress.reading_address().port, _self.admission, _counters);
  progress.watch(_gate->event_fd());
  on(MessageId::probe, &Serving::on_probe);
  on(MessageId::pull, &Serving::on_pull);
  on(MessageId::cancel, &Serving::on_cancel);
  on(MessageId::renew, &Serving::on_renew);
  on(MessageId::complete, &Serving::on_complete);
  on(MessageId::bye, &Serving::on_bye);
  progress.serving()->on_message(static_cast<unsigned>(MessageId::hello), [this](BytesView header, BytesView body) {
    try {
      on_hello(header, body);
    } catch (const std::exception&) {
      ++_counters->bad_message;
    }
  });
}

void Serving::on(MessageId message, Handler handler) {
  _progress->serving()->on_message(static_cast<unsigned>(message), [this, handler](BytesView header, BytesView body) {
    try {
      const Stamp stamp = Stamp::decode(header);
      const auto found = _sessions.find(stamp.receiver);
      if (found == _sessions.end() || found->second->lost || !same_secret(found->second->token, stamp.token)) {
        ++_counters->bad_token;
        return;
      }
      (this->*handler)(*found->second, body);
    } catch (const std::exception&) {
      ++_counters->bad_message;
    }
  });
}

void Serving::on_hello(BytesView header, BytesView body) {
  if (!header.empty()) throw Error(Errc::codec, "a hello has no header");
  Hello hello = Hello::decode(body);
  // Without the secret there is no answer, and UCX never gets to see the address it came with.
  if (!same_secret(hello.admission, _self.admission)) {
    ++_counters->bad_admission;
    return;
  }
  if (_hellos.size() < max_waiting_hellos) _hellos.push_back(std::move(hello));
}

std::optional<Refuse> Serving::objection(const Hello& hello) const {
  const auto differs = [](const std::string& field, std::uint64_t reader, std::uint64_t owner) {
    return Refuse{Errc::mismatch, field + " differs: the reader has " + std::to_string(reader) + ", the owner " +
                                      std::to_string(owner)};
  };
  if (hello.version != protocol_version) return differs("protocol version", hello.version, protocol_version);
  if (hello.segment_bytes != _self.segment_bytes) {
    return differs("segment_bytes", hello.segment_bytes, _self.segment_bytes);
  }
  if (hello.owner_incarnation != _self.incarnation) {
    return Refuse{Errc::connect, "the engine of this descriptor is gone; another one listens in its place"};
  }
  return std::nullopt;
}

void Serving::admit(const Hello& hello) {
  auto session = std::make_unique<Session>();
  Session& s = *session;
  s.id = random_u64();
  s.token = random_token();
  s.nonce = random_token();
  s.reader = hello.reader_name;
  s.endpoint = std::make_unique<ucx::Endpoint>(_progress->serving(), hello.worker_address, s.reader,
                                               [this, &s](ucs_status_t) { _any_lost = s.lost = true; });
  const Bytes challenge = Stamp{hello.reader_id, hello.challenge}.encode();
  if (const auto refuse = objection(hello)) {
    s.endpoint->send(static_cast<unsigned>(MessageId::refuse), challenge, refuse->encode());
    // Dropped with the reader's endpoint: closing now would overtake the refusal.
    _sessions.emplace(s.id, std::move(session));
    return;
  }
  s.to_reader = Stamp{hello.reader_id, s.token};
  s.server = std::make_unique<PullServer>(_context, *s.endpoint, s.to_reader);
  Welcome welcome{s.id, s.token, s.nonce, _self.host()};
  if (welcome.host) {
    welcome.host->nonce_address = reinterpret_cast<std::uint64_t>(s.nonce.data());
    welcome.host->nonce = s.nonce;
  }
  s.endpoint->send(static_cast<unsigned>(MessageId::welcome), challenge, welcome.encode());
  ++_counters->sessions;
  _sessions.emplace(s.id, std::move(session));
}

void Serving::on_probe(Session& session, BytesView body) {
  if (!body.empty()) throw Error(Errc::codec, "a probe has no body");
  session.endpoint->send(static_cast<unsigned>(MessageId::proof), session.to_reader.encode(),
                         Proof{_self.incarnation, session.nonce}.encode());
}

void Serving::on_pull(Session& session, BytesView body) {
  session.server->accept(PullRequest::decode(body));
  _progress->tick_by(Clock::now());
}

void Serving::on_cancel(Session& session, BytesView body) { session.server->cancel(Cancel::decode(body).pull); }

void Serving::on_renew(Session& /*session*/, BytesView body) {
  const Renew renew = Renew::decode(body);
  if (!_leases->renew(renew.lease, LeaseTable::Seconds(renew.term))) ++_counters->stale_epoch;
}

void Serving::on_complete(Session& /*session*/, BytesView body) {
  const Complete complete = Complete::decode(body);
  if (!_leases->complete(complete.lease, complete.readers)) ++_counters->stale_epoch;
}

void Serving::on_bye(Session& session, BytesView /*body*/) { _any_lost = session.lost = true; }

bool Serving::drop_lost() {
  if (!std::exchange(_any_lost, false)) return false;
  std::erase_if(_sessions, [this](const auto& entry) {
    if (!entry.second->lost) return false;
    if (entry.second->server) ++_counters->sessions_ended;
    return true;
  });
  return true;
}

// What goes wrong at the gate, a lack of file descriptors say, must not end the sessions behind it.
bool Serving::attend_gate(const std::function<bool()>& act) {
  try {
    return act();
  } catch (const std::exception&) {
    ++_counters->bad_message;
    return false;
  }
}

bool Serving::pump() {
  bool busy = drop_lost();
  if (attend_gate([this] { return _gate->pump(); })) {
    busy = true;
    _progress->tick_by(Clock::now());
  }
  for (const Hello& hello : std::exchange(_hellos, {})) {
    busy = true;
    if (_sessions.size() >= max_sessions) continue;  // an answer would take what is short
    try {
      admit(hello);
    } catch (const std::exception&) {
      ++_counters->bad_message;
    }
  }
  // One message each per round keeps a large pull of one reader from delaying the others.
  for (int round = 0; round < 16; ++round) {
    bool sent = false;
    for (const auto& [id, session] : _sessions) {
      if (session->server && !session->lost) sent = session->server->pump() || sent;
    }
    if (!sent) break;
    busy = true;
  }
  return busy;
}

Serving::Clock::time_point Serving::tick(Clock::time_point now) {
  auto next = now + lease_interval;
  if (const auto due = _leases->expire(now)) next = std::min(next, std::max(*due, now));
  attend_gate([&] {
    next = std::min(next, _gate->tick(now));
    return true;
  });
  if (!_gate->worker_listens()) {
    throw Error(Errc::transport, "UCX gave up its listening socket: the process ran out of file descriptors",
                {.operation = "serve readers", .hint = "raise the limit (ulimit -n)"});
  }
  _context.extents.sweep();
  for (const auto& [id, session] : _sessions) {
    if (session->server && !session->lost) next = std::min(next, session->server->tick(now));
  }
  return next;
}

void Serving::stop() {
  _gate.reset();
  _leases->revoke_all();
  for (const auto& [id, session] : _sessions) {
    if (session->server && !session->lost) {
      session->endpoint->send(static_cast<unsigned>(MessageId::bye), session->to_reader.encode(), {});
    }
    session->lost = true;
  }
  _any_lost = true;
  drop_lost();
}

}  // namespace kvdirect
