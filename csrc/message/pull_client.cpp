// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <utility>

#include "session/reader.h"

// The reader's half of the message lane: asks for the runs of stripes, lands what comes, believes the verdict.
namespace kvdirect {

namespace {

// Of requests that wait to be sent. What else is said, renewals above all, waits behind them.
constexpr std::size_t max_backlog = 512 << 10;

Errc as_error(PullOutcome outcome) {
  switch (outcome) {
    case PullOutcome::lease_expired: return Errc::lease_expired;
    case PullOutcome::timeout: return Errc::timeout;
    default: return Errc::transport;
  }
}

}  // namespace

void ReaderSessions::begin(ReaderConnection& connection, Stripe stripe) {
  if (connection.lost) {
    stripe.fail(stripe.pull().error(Errc::peer_lost, "could not start: the owner went away"));
    stripe.set_quiet();
    return;
  }
  _event_thread->tick_by(stripe.pull().job().deadline);
  connection.waiting.push_back(std::move(stripe));
  admit_waiting(connection);
}

void ReaderSessions::admit_waiting(ReaderConnection& connection) {
  while (!connection.waiting.empty()) {
    const std::size_t runs = connection.waiting.front().run_count();
    const bool fits =
        connection.running.size() < limits::pulls_at_once && connection.running_runs + runs <= limits::runs_at_once;
    if (!fits) return;
    const Stripe stripe = std::move(connection.waiting.front());
    connection.waiting.pop_front();
    if (stripe.pull().done()) {
      stripe.set_quiet();
      continue;
    }
    const std::uint64_t id = connection.next_pull++;
    connection.running_runs += runs;
    connection.running.emplace(id, ReaderConnection::Running{ReceiveCursor(stripe)});
    connection.asking.push_back(id);
  }
  ask(connection);
}

// As much as the stream should have to keep; the rest when that was sent.
void ReaderSessions::ask(ReaderConnection& connection) {
  while (!connection.asking.empty() && connection.stream && connection.stream->backlog() < max_backlog) {
    const std::uint64_t id = connection.asking.front();
    ReaderConnection::Running& running = connection.running.at(id);
    ask_some(connection, id, running);
    if (running.asked == running.cursor.stripe().run_count()) connection.asking.pop_front();
  }
}

void ReaderSessions::ask_some(ReaderConnection& connection, std::uint64_t id, ReaderConnection::Running& running) {
  const Stripe& stripe = running.cursor.stripe();
  if (running.asked == 0) stripe.asked();
  const PullJob& job = stripe.pull().job();
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(job.deadline - Clock::now()).count();
  PullRequest request;
  request.pull = id;
  request.lease = job.lease;
  request.watermark = job.watermark;
  request.timeout_ms = static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 1, 3'600'000));
  request.total_runs = static_cast<std::uint32_t>(stripe.run_count());
  request.first_run = static_cast<std::uint32_t>(running.asked);
  const std::size_t count = std::min(limits::runs_per_message, stripe.run_count() - running.asked);
  request.runs.reserve(count);
  for (const std::size_t end = running.asked + count; running.asked < end; ++running.asked) {
    const Run run = stripe.run(running.asked);
    request.runs.push_back({run.remote_region, run.remote_offset, run.length});
  }
  connection.send(MessageId::pull, request.encode());
}

std::size_t ReaderSessions::place(ReaderConnection& connection, const DataHeader& data, std::uint64_t bytes,
                                  std::span<iovec> parts) {
  const auto found = connection.running.find(data.pull);
  if (found == connection.running.end()) return 0;  // ended here before the owner knew
  auto& running = found->second;
  if (running.cursor.expects(data.offset, bytes)) return running.cursor.place(bytes, parts);
  ++_counters->bad_message;
  const Stripe& stripe = running.cursor.stripe();
  stripe.fail(stripe.pull().error(Errc::transport, "got bytes it did not ask for"));
  finish(connection, data.pull);
  return 0;
}

void ReaderSessions::landed(ReaderConnection& connection, const DataHeader& data, std::uint64_t bytes) {
  connection.running.at(data.pull).cursor.advance(bytes);
  finish_if_complete(connection, data.pull);
}

void ReaderSessions::on_verdict(ReaderConnection& connection, BytesView body) {
  const Verdict verdict = Verdict::decode(body);
  const auto found = connection.running.find(verdict.pull);
  if (found == connection.running.end()) return;
  auto& running = found->second;
  if (verdict.outcome == PullOutcome::valid) {
    running.valid = true;
    finish_if_complete(connection, verdict.pull);
    return;
  }
  const Stripe& stripe = running.cursor.stripe();
  stripe.fail(stripe.pull().error(as_error(verdict.outcome), "was refused: " + verdict.reason));
  finish(connection, verdict.pull);
}

void ReaderSessions::finish_if_complete(ReaderConnection& connection, std::uint64_t id) {
  const auto& running = connection.running.at(id);
  if (!running.valid || !running.cursor.complete()) return;
  running.cursor.stripe().succeed();
  finish(connection, id);
}

void ReaderSessions::finish(ReaderConnection& connection, std::uint64_t id) {
  const auto found = connection.running.find(id);
  if (found == connection.running.end()) return;
  const Stripe stripe = found->second.cursor.stripe();
  connection.running_runs -= stripe.run_count();
  std::erase(connection.asking, id);
  connection.running.erase(found);
  stripe.set_quiet();
  admit_waiting(connection);
}

void ReaderSessions::forget(ReaderConnection& connection, const Pull* pull) {
  const auto same = [pull](const Stripe& stripe) { return &stripe.pull() == pull; };
  const auto waiting = std::ranges::find_if(connection.waiting, same);
  if (waiting != connection.waiting.end()) {
    waiting->set_quiet();
    connection.waiting.erase(waiting);
    return;
  }
  for (const auto& [id, running] : connection.running) {
    if (!same(running.cursor.stripe())) continue;
    connection.send(MessageId::cancel, Cancel{id}.encode());
    finish(connection, id);
    return;
  }
}

}  // namespace kvdirect
