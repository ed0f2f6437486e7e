// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/counters.h"
#include "base/digest.h"
#include "lease.h"
#include "memory/regions.h"
#include "message/lease_extents.h"
#include "message/run_budget.h"
#include "net/stream.h"
#include "planner/run_cursor.h"
#include "wire/messages.h"

namespace kvdirect {

// For RunCursor.
[[nodiscard]] inline WireRun part_of(const WireRun& run, std::uint64_t inside, std::uint64_t length) noexcept {
  return {run.region, run.offset + inside, length};
}

// What every session's server shares.
struct ServeContext {
  std::shared_ptr<LeaseTable> leases;
  std::shared_ptr<Counters> counters;
  std::function<std::shared_ptr<const Published>()> published;
  std::uint64_t segment_bytes = 0;
  // Whether these servers count how pulls end. One of a session's streams does: what the others carry are stripes.
  bool counts_ends = true;
  std::shared_ptr<LeaseExtents> extents;  // the engine's, on whichever thread
  std::shared_ptr<RunBudget> budget;      // the engine's, too
  // Whether a pull waits for its lease to change: whoever changes one clears it, and then has these servers look again.
  std::shared_ptr<std::atomic<bool>> any_waits = std::make_shared<std::atomic<bool>>(false);
};

// The owner's half of the message lane for one session: queues what its reader asked for, sends it straight from the
// regions, or makes a digest of it, and says last whether the lease held throughout. Control thread only.
class PullServer {
 public:
  using Clock = std::chrono::steady_clock;

  PullServer(ServeContext& context, Stream& stream) : _context(context), _stream(stream), _held(*context.budget) {}

  enum class Wanted : std::uint8_t { bytes, digest };

  void accept(PullRequest request, Wanted wanted = Wanted::bytes);
  void cancel(std::uint64_t pull);
  // Sends at most one message, once the kernel has taken those before; true if it did and may do so again.
  bool poll();
  // Whether poll() has something to send, now or once the kernel takes more.
  [[nodiscard]] bool sending() const noexcept { return !_queue.empty(); }
  // Looks at pulls whose watermark was too low: to be called when a lease changed, and at next_look().
  void look_again(Clock::time_point now);
  [[nodiscard]] Clock::time_point next_look() const noexcept { return _next_look; }

 private:
  struct Job {
    PullRequest request;  // runs of all its messages, in order
    Clock::time_point deadline;
    std::uint64_t bytes = 0;
    RunCursor<WireRun> unsent;
    std::uint64_t sent = 0;
    std::optional<Hasher> hasher;  // instead of being sent, they are taken in here
  };

  void admit(std::unique_ptr<Job> job);
  void park(std::unique_ptr<Job> job);
  void send_next(Job& job);
  void hash_next(Job& job);
  void send_digest(const Job& job);
  void conclude(const Job& job);
  void answer(const Job& job, PullOutcome outcome, const std::string& reason);
  void refuse(const Job& job, PullOutcome outcome, const std::string& reason);
  void refuse_ended(const Job& job, const std::string& reason);

  ServeContext& _context;
  Stream& _stream;
  std::unique_ptr<Job> _collecting;  // its messages are still coming
  std::vector<std::unique_ptr<Job>> _parked;
  Clock::time_point _next_look = Clock::time_point::max();  // no later than the first of these must end
  std::deque<std::unique_ptr<Job>> _queue;                  // front: being sent
  RunShare _held;                                           // runs in all of them
};

}  // namespace kvdirect
