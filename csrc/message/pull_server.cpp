// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "message/pull_server.h"

#include <algorithm>
#include <utility>

#include "base/fetch_ahead.h"
#include "test_hooks.h"

namespace kvdirect {

namespace {

constexpr std::size_t max_jobs = 2 * limits::pulls_at_once;
constexpr std::uint64_t max_runs = 2 * limits::runs_at_once;
// A pull that waits longer asks again: what it holds here is not to outlive whoever forgot it.
constexpr std::uint32_t max_timeout_ms = 3'600'000;
// Some tens of microseconds; others are served in between.
constexpr std::uint64_t hashed_a_turn = 256 << 10;

}  // namespace

void PullServer::accept(PullRequest request, Wanted wanted) {
  bool room = true;
  const bool digest = wanted == Wanted::digest;
  if (_collecting && digest == _collecting->hasher.has_value() &&
      request.first_run == _collecting->request.runs.size() && request.pull == _collecting->request.pull &&
      request.total_runs == _collecting->request.total_runs) {
    room = _held.add(request.runs.size());
    auto& runs = _collecting->request.runs;
    runs.insert(runs.end(), request.runs.begin(), request.runs.end());
  } else if (request.first_run == 0) {
    // A reader sends one pull's messages after each other: one left half done is one it gave up.
    if (_collecting) refuse(*std::exchange(_collecting, nullptr), PullOutcome::refused, "its request was cut short");
    auto job = std::make_unique<Job>();
    job->deadline = Clock::now() + std::chrono::milliseconds(std::min(request.timeout_ms, max_timeout_ms));
    room = _held.add(request.runs.size());
    job->request = std::move(request);
    if (digest) job->hasher.emplace();
    _collecting = std::move(job);
  } else {
    ++_context.counters->bad_message;
    return;
  }
  if (!room) {
    refuse(*std::exchange(_collecting, nullptr), PullOutcome::refused, "the owner's queue for all readers is full");
    return;
  }
  if (_held.runs() > max_runs || _queue.size() + _parked.size() >= max_jobs) {
    refuse(*std::exchange(_collecting, nullptr), PullOutcome::refused, "the owner's queue for this reader is full");
    return;
  }
  if (_collecting->request.runs.size() == _collecting->request.total_runs) admit(std::exchange(_collecting, nullptr));
}

void PullServer::admit(std::unique_ptr<Job> job) {
  const PullRequest& request = job->request;
  switch (_context.leases->verdict(request.lease, request.watermark)) {
    case LeaseVerdict::expired: refuse_ended(*job, "the owner no longer holds this lease"); return;
    case LeaseVerdict::not_yet: park(std::move(job)); return;
    case LeaseVerdict::valid: break;
  }
  const auto published = _context.published();
  bool covered = false;
  try {
    covered = published && _context.extents->covers(*published, request.lease, request.runs);
  } catch (const Error& error) {
    refuse(*job, PullOutcome::failed, std::string("the blocks of its lease cannot be worked out: ") + error.what());
    return;
  }
  // A lease that ended meanwhile has no blocks, and its reader did nothing wrong.
  if (!covered && _context.leases->verdict(request.lease, 0) == LeaseVerdict::expired) {
    refuse_ended(*job, "the owner no longer holds this lease");
    return;
  }
  if (!covered) {
    ++_context.counters->refused_runs;
    refuse(*job, PullOutcome::refused, "it asks for bytes outside the blocks of its lease");
    return;
  }
  const auto on_gpu = [&](const WireRun& run) { return published->regions[run.region].memory != MemoryKind::host; };
  if (job->hasher && std::ranges::any_of(request.runs, on_gpu)) {
    refuse(*job, PullOutcome::failed, "no digest is made of memory on a GPU");
    return;
  }
  for (const WireRun& run : request.runs) job->bytes += run.length;
  job->unsent = RunCursor<WireRun>(request.runs);
  _queue.push_back(std::move(job));
}

void PullServer::park(std::unique_ptr<Job> job) {
  const LeaseRef lease = job->request.lease;
  const std::uint64_t watermark = job->request.watermark;
  _next_look = std::min(_next_look, job->deadline);
  _parked.push_back(std::move(job));
  // A change from here on is told; one that came before is seen here.
  _context.any_waits->store(true);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (_context.leases->verdict(lease, watermark) != LeaseVerdict::not_yet) _next_look = {};
}

void PullServer::cancel(std::uint64_t pull) {
  const auto same = [pull](const std::unique_ptr<Job>& job) { return job->request.pull == pull; };
  const auto refuse_in = [&](auto& jobs) {
    const auto found = std::ranges::find_if(jobs, same);
    if (found == jobs.end()) return false;
    refuse(**found, PullOutcome::failed, "the reader cancelled it");
    jobs.erase(found);
    return true;
  };
  if (_collecting && same(_collecting)) {
    refuse(*std::exchange(_collecting, nullptr), PullOutcome::failed, "the reader cancelled it");
  } else if (!refuse_in(_parked)) {
    // What is on its way of one that is being sent belongs to the stream by now.
    refuse_in(_queue);
  }
}

bool PullServer::poll() {
  if (_queue.empty() || !_stream.idle()) return false;
  Job& job = *_queue.front();
  const bool expired = _context.leases->verdict(job.request.lease, 0) == LeaseVerdict::expired;
  if (expired || job.sent == job.bytes) {
    conclude(job);
    _queue.pop_front();
    return true;
  }
  if (job.hasher) {
    hash_next(job);
    return true;
  }
  if (pull_allowance(job.sent, job.bytes, _context.segment_bytes) == 0) return false;
  send_next(job);
  return true;
}

void PullServer::send_next(Job& job) {
  const auto published = _context.published();
  std::vector<iovec> parts;
  const std::uint64_t offset = job.sent;
  std::uint64_t room = _context.segment_bytes;
  while (room > 0 && !job.unsent.done() && parts.size() < Stream::max_parts) {
    const WireRun run = job.unsent.take(room);
    std::byte* const from = published->regions[run.region].address + run.offset;
    // The kernel copies them one after the other, and would wait for each.
    fetch_ahead(from, run.length);
    parts.push_back({from, run.length});
    room -= run.length;
    job.sent += run.length;
  }
  _stream.send_data({job.request.pull, offset}, std::move(parts), published);
  _context.counters->bytes_served += job.sent - offset;
}

void PullServer::hash_next(Job& job) {
  const auto published = _context.published();
  for (std::uint64_t room = hashed_a_turn; room > 0 && !job.unsent.done();) {
    const WireRun run = job.unsent.take(room);
    job.hasher->add({published->regions[run.region].address + run.offset, run.length});
    room -= run.length;
    job.sent += run.length;
  }
}

void PullServer::conclude(const Job& job) {
  // Every byte was taken, by the kernel or for the digest, before this look at the lease: a valid answer covers all.
  const bool valid = _context.leases->verdict(job.request.lease, job.request.watermark) == LeaseVerdict::valid;
  if (!valid) {
    refuse_ended(job, "the lease ended while its blocks were being read");
  } else if (job.hasher) {
    send_digest(job);
  } else {
    if (_context.counts_ends) ++_context.counters->pulls_served;
    answer(job, PullOutcome::valid, {});
  }
}

void PullServer::look_again(Clock::time_point now) {
  _next_look = Clock::time_point::max();
  auto parked = std::exchange(_parked, {});
  for (auto& job : parked) {
    if (job->deadline <= now) {
      refuse(*job, PullOutcome::timeout, "the positions it wants were not final in time");
    } else {
      admit(std::move(job));
    }
  }
}

void PullServer::refuse(const Job& job, PullOutcome outcome, const std::string& reason) {
  if (_context.counts_ends) ++_context.counters->refused_pulls;
  answer(job, outcome, reason);
}

void PullServer::refuse_ended(const Job& job, const std::string& reason) {
  if (_context.counts_ends) ++_context.counters->stale_epoch;
  refuse(job, PullOutcome::lease_expired, reason);
}

void PullServer::send_digest(const Job& job) {
  ++_context.counters->digests_made;
  _held.remove(job.request.runs.size());
  _stream.send(MessageId::digest, Proven{job.request.pull, job.hasher->digest()}.encode());
}

void PullServer::answer(const Job& job, PullOutcome outcome, const std::string& reason) {
  _held.remove(job.request.runs.size());
  _stream.send(MessageId::verdict, Verdict{job.request.pull, outcome, reason}.encode());
}

}  // namespace kvdirect
