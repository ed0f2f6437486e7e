// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "wire/messages.h"

#include <algorithm>

#include "base/codec.h"
#include "base/random.h"
#include "wire/fields.h"

namespace kvdirect {

namespace {

void put_lease(Writer& writer, LeaseRef lease) {
  writer.u32(lease.slot);
  writer.u64(lease.epoch);
}

LeaseRef get_lease(Reader& reader) {
  LeaseRef lease;
  lease.slot = reader.u32("lease slot");
  lease.epoch = reader.u64("lease epoch");
  return lease;
}

std::string clipped(const std::string& text, std::size_t limit) { return std::string(utf8_prefix(text, limit)); }

}  // namespace

Token random_token() {
  Token token{};
  fill_random(token);
  return token;
}

bool same_secret(BytesView a, BytesView b) noexcept {
  if (a.size() != b.size()) return false;
  // volatile keeps the compiler from leaving early.
  volatile unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference = difference | std::to_integer<unsigned>(a[i] ^ b[i]);
  return difference == 0;
}

Bytes DataHeader::encode() const {
  Writer writer;
  writer.u64(pull);
  writer.u64(offset);
  return writer.take();
}

DataHeader DataHeader::decode(BytesView bytes) {
  Reader reader(bytes, "data header");
  DataHeader header;
  header.pull = reader.u64("pull");
  header.offset = reader.u64("offset");
  reader.finish();
  return header;
}

Bytes Hello::encode() const {
  Writer writer;
  writer.u32(version);
  writer.u64(owner_incarnation);
  writer.u64(reader_incarnation);
  writer.string(clipped(reader_name, limits::name));
  writer.sized(admission);
  writer.u8(static_cast<std::uint8_t>(stream));
  writer.raw(session);
  return writer.take();
}

Hello Hello::decode(BytesView bytes) {
  Reader reader(bytes, "hello");
  Hello hello;
  hello.version = reader.u32("protocol version");
  hello.owner_incarnation = reader.u64("owner incarnation");
  hello.reader_incarnation = reader.u64("reader incarnation");
  hello.reader_name = reader.string("reader name", limits::name);
  hello.admission = reader.sized("admission", limits::admission);
  if (hello.version != protocol_version) return hello;
  hello.stream = reader.u8("stream");
  if (hello.stream >= limits::streams) reader.fail("stream", "is above the limit");
  hello.session = get_token(reader, "session");
  reader.finish();
  return hello;
}

Bytes Refuse::encode() const {
  Writer writer;
  writer.u8(static_cast<std::uint8_t>(code));
  writer.string(clipped(reason, limits::reason));
  return writer.take();
}

Refuse Refuse::decode(BytesView bytes) {
  Reader reader(bytes, "refusal");
  Refuse refuse;
  const std::uint8_t code = reader.u8("code");
  if (code > static_cast<std::uint8_t>(Errc::closed)) reader.fail("code", "is unknown");
  refuse.code = static_cast<Errc>(code);
  refuse.reason = reader.string("reason", limits::reason);
  reader.finish();
  return refuse;
}

Bytes Proof::encode() const {
  Writer writer;
  writer.u64(incarnation);
  writer.raw(nonce);
  return writer.take();
}

Proof Proof::decode(BytesView bytes) {
  Reader reader(bytes, "proof");
  Proof proof;
  proof.incarnation = reader.u64("incarnation");
  proof.nonce = get_token(reader, "nonce");
  reader.finish();
  return proof;
}

Bytes PullRequest::encode() const {
  Writer writer;
  writer.u64(pull);
  put_lease(writer, lease);
  writer.u64(watermark);
  writer.u32(timeout_ms);
  writer.u32(total_runs);
  writer.u32(first_run);
  writer.u32(static_cast<std::uint32_t>(runs.size()));
  for (const WireRun& run : runs) {
    writer.u32(run.region);
    writer.u64(run.offset);
    writer.u64(run.length);
  }
  return writer.take();
}

PullRequest PullRequest::decode(BytesView bytes) {
  Reader reader(bytes, "pull request");
  PullRequest request;
  request.pull = reader.u64("pull");
  request.lease = get_lease(reader);
  request.watermark = reader.u64("watermark");
  request.timeout_ms = reader.u32("timeout");
  request.total_runs = reader.u32("total runs");
  request.first_run = reader.u32("first run");
  const std::uint32_t count = reader.count("runs", limits::runs_per_message, WireRun::bytes);
  if (request.total_runs > limits::runs_per_pull) reader.fail("total runs", "is above the limit");
  if (request.first_run > request.total_runs || count > request.total_runs - request.first_run) {
    reader.fail("runs", "reach past the announced total");
  }
  request.runs.resize(count);
  for (WireRun& run : request.runs) {
    run.region = reader.u32("region");
    run.offset = reader.u64("offset");
    run.length = reader.u64("length");
  }
  reader.finish();
  return request;
}

Bytes Verdict::encode() const {
  Writer writer;
  writer.u64(pull);
  writer.u8(static_cast<std::uint8_t>(outcome));
  writer.string(clipped(reason, limits::reason));
  return writer.take();
}

Verdict Verdict::decode(BytesView bytes) {
  Reader reader(bytes, "verdict");
  Verdict verdict;
  verdict.pull = reader.u64("pull");
  const std::uint8_t outcome = reader.u8("outcome");
  if (outcome > static_cast<std::uint8_t>(PullOutcome::failed)) reader.fail("outcome", "is unknown");
  verdict.outcome = static_cast<PullOutcome>(outcome);
  verdict.reason = reader.string("reason", limits::reason);
  reader.finish();
  return verdict;
}

Bytes Cancel::encode() const {
  Writer writer;
  writer.u64(pull);
  return writer.take();
}

Cancel Cancel::decode(BytesView bytes) {
  Reader reader(bytes, "cancel");
  Cancel cancel;
  cancel.pull = reader.u64("pull");
  reader.finish();
  return cancel;
}

Bytes Renew::encode() const {
  Writer writer;
  put_lease(writer, lease);
  writer.f64(term);
  return writer.take();
}

Renew Renew::decode(BytesView bytes) {
  Reader reader(bytes, "renew");
  Renew renew;
  renew.lease = get_lease(reader);
  renew.term = reader.f64("term");
  if (!(renew.term > 0)) reader.fail("term", "is no time");
  renew.term = std::min(renew.term, limits::renew_term);
  reader.finish();
  return renew;
}

Bytes Complete::encode() const {
  Writer writer;
  put_lease(writer, lease);
  writer.u32(readers);
  return writer.take();
}

Complete Complete::decode(BytesView bytes) {
  Reader reader(bytes, "complete");
  Complete complete;
  complete.lease = get_lease(reader);
  complete.readers = reader.u32("readers");
  if (complete.readers == 0) reader.fail("readers", "is 0");
  reader.finish();
  return complete;
}

}  // namespace kvdirect
