// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "message/pull_client.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

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

void PullClient::begin(Stripe stripe) {
  _waiting.push_back(std::move(stripe));
  admit_waiting();
}

void PullClient::admit_waiting() {
  while (!_waiting.empty()) {
    const std::size_t runs = _waiting.front().run_count();
    const bool fits = _running.size() < limits::pulls_at_once && _running_runs + runs <= limits::runs_at_once;
    if (!fits) return;
    const Stripe stripe = std::move(_waiting.front());
    _waiting.pop_front();
    if (stripe.pull().done()) {
      stripe.set_quiet();
      continue;
    }
    const std::uint64_t id = _next_id++;
    _running_runs += runs;
    _running.emplace(id, Running{ReceiveCursor(stripe), stripe.asking()});
    _asking.push_back(id);
    if (stripe.pull().job().permutes) _arrived.resize(arrival_bytes);
  }
  ask();
}

void PullClient::ask() {
  while (!_asking.empty() && _stream.backlog() < max_backlog) {
    const std::uint64_t id = _asking.front();
    Running& running = _running.at(id);
    ask_some(id, running);
    if (running.asked == running.cursor.stripe().run_count()) _asking.pop_front();
  }
}

void PullClient::ask_some(std::uint64_t id, Running& running) {
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
    const Run run = running.unasked.take();
    request.runs.push_back({run.remote_region, run.remote_offset, run.length});
  }
  _stream.send(job.digest ? MessageId::prove : MessageId::pull, request.encode());
}

std::size_t PullClient::place(const DataHeader& data, std::uint64_t bytes, std::span<iovec> parts) {
  const auto found = _running.find(data.pull);
  if (found == _running.end()) return 0;  // ended here before the owner knew
  const ReceiveCursor& cursor = found->second.cursor;
  if (!cursor.stripe().pull().job().digest && cursor.expects(data.offset, bytes)) {
    if (!cursor.permutes()) return cursor.place(bytes, parts);
    parts.front() = {_arrived.data(), std::min<std::size_t>(bytes, _arrived.size())};
    return 1;
  }
  ++_counters.bad_message;
  const Stripe& stripe = cursor.stripe();
  stripe.fail(stripe.pull().error(Errc::transport, "got bytes it did not ask for"));
  finish(data.pull);
  return 0;
}

void PullClient::landed(const DataHeader& data, std::uint64_t bytes) {
  ReceiveCursor& cursor = _running.at(data.pull).cursor;
  if (cursor.permutes()) {
    cursor.put(_arrived.data(), bytes);
  } else {
    cursor.advance(bytes);
  }
  finish_if_complete(data.pull);
}

void PullClient::on_verdict(const Verdict& verdict) {
  const auto found = _running.find(verdict.pull);
  if (found == _running.end()) return;
  if (verdict.outcome == PullOutcome::valid && !found->second.cursor.stripe().pull().job().digest) {
    found->second.valid = true;
    finish_if_complete(verdict.pull);
    return;
  }
  const Stripe& stripe = found->second.cursor.stripe();
  stripe.fail(stripe.pull().error(as_error(verdict.outcome), "was refused: " + verdict.reason));
  finish(verdict.pull);
}

void PullClient::on_proven(const Proven& proven) {
  const auto found = _running.find(proven.pull);
  if (found == _running.end()) return;
  const Stripe& stripe = found->second.cursor.stripe();
  const std::shared_ptr<Digest> wanted = stripe.pull().job().digest;
  if (!wanted) throw Error(Errc::codec, "nobody asked for the digest of this pull");
  *wanted = proven.digest;
  stripe.succeed();
  finish(proven.pull);
}

void PullClient::finish_if_complete(std::uint64_t id) {
  const Running& running = _running.at(id);
  if (!running.valid || !running.cursor.complete()) return;
  running.cursor.stripe().succeed();
  finish(id);
}

void PullClient::finish(std::uint64_t id) {
  const auto ended = _running.extract(id);
  const Stripe& stripe = ended.mapped().cursor.stripe();
  _running_runs -= stripe.run_count();
  std::erase(_asking, id);
  stripe.set_quiet();
  admit_waiting();
}

void PullClient::forget(const Pull* pull) {
  const auto same = [pull](const Stripe& stripe) { return &stripe.pull() == pull; };
  const auto waiting = std::ranges::find_if(_waiting, same);
  if (waiting != _waiting.end()) {
    waiting->set_quiet();
    _waiting.erase(waiting);
    return;
  }
  const auto running =
      std::ranges::find_if(_running, [&same](const auto& entry) { return same(entry.second.cursor.stripe()); });
  if (running == _running.end()) return;
  _stream.send(MessageId::cancel, Cancel{running->first}.encode());
  finish(running->first);
}

Clock::time_point PullClient::tick(Clock::time_point now) {
  auto next = Clock::time_point::max();
  std::vector<const Pull*> late;
  each_stripe([&](const Stripe& stripe) {
    const Clock::time_point deadline = stripe.pull().job().deadline;
    if (deadline > now) {
      next = std::min(next, deadline);
      return;
    }
    stripe.fail(stripe.pull().error(Errc::timeout, "did not finish by its deadline"));
    late.push_back(&stripe.pull());
  });
  for (const Pull* pull : late) forget(pull);
  return next;
}

void PullClient::lose(const Error& why) {
  each_stripe([&why](const Stripe& stripe) {
    stripe.fail(stripe.pull().error(why.code(), std::string("failed: ") + why.what(), why.context().status));
    stripe.set_quiet();
  });
  _running.clear();
  _asking.clear();
  _waiting.clear();
}

template <class Action>
void PullClient::each_stripe(const Action& action) const {
  for (const auto& [id, running] : _running) action(running.cursor.stripe());
  for (const Stripe& stripe : _waiting) action(stripe);
}

}  // namespace kvdirect
