// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <chrono>
#include <string>
#include <utility>

#include "session/owner_connection.h"
#include "wire/admission.h"

// Who is let in: a hello is challenged, and whoever answers with a proof of the key is welcomed with one.
namespace kvdirect {

namespace {

// Passes end by the clock on the wall, which is all that who made them and who looks at them share.
std::uint64_t milliseconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

std::string differs(const std::string& field, std::uint64_t reader, std::uint64_t owner) {
  return field + " differs: the reader has " + std::to_string(reader) + ", the owner " + std::to_string(owner);
}

}  // namespace

void OwnerSessions::hear_unadmitted(OwnerConnection& connection, MessageId message, BytesView body) {
  if (connection.leaving_for) throw Error(Errc::codec, "nothing follows the answer until there is a welcome");
  if (connection.stage == OwnerConnection::Stage::hello) {
    if (message != MessageId::hello) throw Error(Errc::codec, "the first message is the hello");
    on_hello(connection, body);
  } else {
    if (message == MessageId::bye) return lose(connection);
    if (message != MessageId::answer) throw Error(Errc::codec, "the second message is the answer to the challenge");
    on_answer(connection, body);
  }
}

void OwnerSessions::on_hello(OwnerConnection& connection, BytesView body) {
  const Hello hello = Hello::decode(body);
  // Nobody of another version can answer, and which one this is is no secret.
  if (hello.version != protocol_version) {
    return refuse(connection, {Errc::mismatch, differs("protocol version", hello.version, protocol_version)});
  }
  connection.hello.assign(body.begin(), body.end());
  connection.challenge = random_nonce();
  connection.stage = OwnerConnection::Stage::answer;
  connection.stream.send(MessageId::challenge, Challenge{connection.challenge}.encode());
}

Bytes OwnerSessions::key_of(const Hello& hello) const {
  return hello.identity.empty() ? _options.admission : pass_key(_options.admission, hello.identity, hello.not_after);
}

void OwnerSessions::on_answer(OwnerConnection& connection, BytesView body) {
  const Hello hello = Hello::decode(connection.hello);
  const Mac expected = reader_proof(key_of(hello), connection.hello, connection.challenge);
  // Without the key there is no answer.
  if (!same_secret(Answer::decode(body).proof, expected)) {
    ++_counters->bad_admission;
    return lose(connection);
  }
  connection.reader = hello.reader_name;
  connection.reader_incarnation = hello.reader_incarnation;
  connection.identity = hello.identity;
  auto why_not = objection(hello);
  if (!why_not) why_not = hello.stream > 0 ? join(connection, hello) : make_room_for(connection);
  if (why_not) {
    refuse(connection, *why_not);
  } else if (hello.stream == 0) {
    admit(connection, hello);
  }
}

std::optional<Refuse> OwnerSessions::objection(const Hello& hello) const {
  if (hello.owner_incarnation != _options.incarnation) {
    return Refuse{Errc::connect, "the engine of this descriptor is gone; another one listens in its place"};
  }
  // A session that there is goes on, with all its connections.
  const std::uint64_t now = milliseconds_since_1970();
  if (!hello.identity.empty() && hello.stream == 0 && hello.not_after < now) {
    return Refuse{Errc::connect, "this reader's pass ended " + std::to_string((now - hello.not_after) / 1000) +
                                     " s ago by the owner's clock; ask for a fresh descriptor"};
  }
  return std::nullopt;
}

void OwnerSessions::refuse(OwnerConnection& connection, const Refuse& refuse) {
  connection.stage = OwnerConnection::Stage::refused;
  connection.stream.send(MessageId::refuse, refuse.encode());
  connection.patient_until = Clock::now() + patience;
}

Bytes OwnerSessions::sealed(const OwnerConnection& connection, const Hello& hello, const Welcome& welcome) const {
  return sealed_welcome(key_of(hello), connection.hello, connection.challenge, welcome);
}

void OwnerSessions::admit(OwnerConnection& connection, const Hello& hello) {
  connection.nonce = random_token();
  const auto streams = static_cast<unsigned>(1 + _options.siblings.size());
  Welcome welcome{connection.nonce, streams, _options.host(), _options.rdma(), _options.shm(), _options.cuda()};
  if (welcome.host) {
    welcome.host->nonce_address = reinterpret_cast<std::uint64_t>(connection.nonce.data());
    welcome.host->nonce = connection.nonce;
  }
  // Before the reader has them: they end with the session, however that ends.
  if (welcome.shm) connection.secrets.push_back(welcome.shm->handoff.secret);
  if (welcome.cuda) connection.secrets.push_back(welcome.cuda->handoff.secret);
  auto server = std::make_unique<PullServer>(_context, connection.stream);
  connection.stream.send(MessageId::welcome, sealed(connection, hello, welcome));
  connection.stream.set_max_message(limits::message);
  connection.server = std::move(server);
  connection.hello = {};
  connection.stage = OwnerConnection::Stage::admitted;
  --_unadmitted;
  _share->take();
  ++_counters->sessions;
}

}  // namespace kvdirect
