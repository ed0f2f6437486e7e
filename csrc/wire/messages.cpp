// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "wire/messages.h"

#include <algorithm>

#include "base/fields.h"
#include "base/random.h"

namespace kvdirect {

Token random_token() {
  Token token{};
  fill_random(token);
  return token;
}

Nonce random_nonce() {
  Nonce nonce{};
  fill_random(nonce);
  return nonce;
}

bool same_secret(BytesView a, BytesView b) noexcept {
  if (a.size() != b.size()) return false;
  // volatile keeps the compiler from leaving early.
  volatile unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference = difference | std::to_integer<unsigned>(a[i] ^ b[i]);
  return difference == 0;
}

void fields(auto& io, Is<LeaseRef> auto& lease) {
  io.u32(lease.slot, "lease slot");
  io.u64(lease.epoch, "lease epoch");
}

void fields(auto& io, Is<DataHeader> auto& header) {
  io.u64(header.pull, "pull");
  io.u64(header.offset, "offset");
}

// What every version's begins with.
void hello_of_any_version(auto& io, Is<Hello> auto& hello) {
  io.u32(hello.version, "protocol version");
  io.u64(hello.owner_incarnation, "owner incarnation");
  io.u64(hello.reader_incarnation, "reader incarnation");
  io.clipped(hello.reader_name, "reader name", limits::name);
  io.sized(hello.identity, "identity", limits::admission);
}

void fields(auto& io, Is<Hello> auto& hello) {
  hello_of_any_version(io, hello);
  io.u8(hello.stream, "stream");
  io.require(hello.stream < limits::streams, "stream", "is above the limit");
  io.raw(hello.session, "session");
  io.require(hello.identity.size() <= limits::identity, "identity", "is too long");
  io.u64(hello.not_after, "not after");
  io.raw(hello.nonce, "nonce");
}

void fields(auto& io, Is<Challenge> auto& challenge) { io.raw(challenge.nonce, "nonce"); }

void fields(auto& io, Is<Answer> auto& answer) { io.raw(answer.proof, "proof"); }

void fields(auto& io, Is<Refuse> auto& refuse) {
  io.choice(refuse.code, Errc::closed, "code");
  io.clipped(refuse.reason, "reason", limits::reason);
}

void fields(auto& io, Is<Proof> auto& proof) {
  io.u64(proof.incarnation, "incarnation");
  io.raw(proof.nonce, "nonce");
}

void fields(auto& io, Is<WireRun> auto& run) {
  io.u32(run.region, "region");
  io.u64(run.offset, "offset");
  io.u64(run.length, "length");
}

void fields(auto& io, Is<PullRequest> auto& request) {
  io.u64(request.pull, "pull");
  fields(io, request.lease);
  io.u64(request.watermark, "watermark");
  io.u32(request.timeout_ms, "timeout");
  io.u32(request.total_runs, "total runs");
  io.u32(request.first_run, "first run");
  const std::size_t count = io.count(request.runs.size(), "runs", limits::runs_per_message, WireRun::bytes);
  io.require(request.total_runs <= limits::runs_per_pull, "total runs", "is above the limit");
  io.require(request.first_run <= request.total_runs && count <= request.total_runs - request.first_run, "runs",
             "reach past the announced total");
  io.resize(request.runs, count);
  for (auto& run : request.runs) fields(io, run);
}

void fields(auto& io, Is<Proven> auto& proven) {
  io.u64(proven.pull, "pull");
  io.raw(proven.digest, "digest");
}

void fields(auto& io, Is<Verdict> auto& verdict) {
  io.u64(verdict.pull, "pull");
  io.choice(verdict.outcome, PullOutcome::failed, "outcome");
  io.clipped(verdict.reason, "reason", limits::reason);
}

void fields(auto& io, Is<Cancel> auto& cancel) { io.u64(cancel.pull, "pull"); }

void fields(auto& io, Is<Renew> auto& renew) {
  fields(io, renew.lease);
  io.f64(renew.term, "term");
  io.require(renew.term > 0, "term", "is no time");
}

void fields(auto& io, Is<Complete> auto& complete) {
  fields(io, complete.lease);
  io.u32(complete.readers, "readers");
  io.require(complete.readers != 0, "readers", "is 0");
}

void fields(auto& io, Is<Note> auto& note) { io.sized(note.body, "body", limits::note); }

Bytes DataHeader::encode() const { return encoded(*this); }
DataHeader DataHeader::decode(BytesView bytes) { return decoded<DataHeader>(bytes, "data header"); }

Bytes Hello::encode() const { return encoded(*this); }
Hello Hello::decode(BytesView bytes) {
  Hello hello;
  FieldReader opening(bytes, "hello");
  hello_of_any_version(opening, hello);
  return hello.version == protocol_version ? decoded<Hello>(bytes, "hello") : hello;
}

Bytes Challenge::encode() const { return encoded(*this); }
Challenge Challenge::decode(BytesView bytes) { return decoded<Challenge>(bytes, "challenge"); }

Bytes Answer::encode() const { return encoded(*this); }
Answer Answer::decode(BytesView bytes) { return decoded<Answer>(bytes, "answer"); }

Bytes Refuse::encode() const { return encoded(*this); }
Refuse Refuse::decode(BytesView bytes) { return decoded<Refuse>(bytes, "refusal"); }

Bytes Proof::encode() const { return encoded(*this); }
Proof Proof::decode(BytesView bytes) { return decoded<Proof>(bytes, "proof"); }

Bytes PullRequest::encode() const { return encoded(*this); }
PullRequest PullRequest::decode(BytesView bytes) { return decoded<PullRequest>(bytes, "pull request"); }

Bytes Proven::encode() const { return encoded(*this); }
Proven Proven::decode(BytesView bytes) { return decoded<Proven>(bytes, "digest"); }

Bytes Verdict::encode() const { return encoded(*this); }
Verdict Verdict::decode(BytesView bytes) { return decoded<Verdict>(bytes, "verdict"); }

Bytes Cancel::encode() const { return encoded(*this); }
Cancel Cancel::decode(BytesView bytes) { return decoded<Cancel>(bytes, "cancel"); }

Bytes Renew::encode() const { return encoded(*this); }
Renew Renew::decode(BytesView bytes) {
  auto renew = decoded<Renew>(bytes, "renew");
  renew.term = std::min(renew.term, limits::renew_term);
  return renew;
}

Bytes Complete::encode() const { return encoded(*this); }
Complete Complete::decode(BytesView bytes) { return decoded<Complete>(bytes, "complete"); }

Bytes Note::encode() const { return encoded(*this); }
Note Note::decode(BytesView bytes) { return decoded<Note>(bytes, "note"); }

}  // namespace kvdirect
