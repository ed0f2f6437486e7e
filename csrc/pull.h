// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/counters.h"
#include "base/device_event.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/non_copyable.h"
#include "base/process_guard.h"
#include "lease.h"
#include "memory/regions.h"
#include "planner/plan.h"

namespace kvdirect {

using Clock = std::chrono::steady_clock;

struct PullResult {
  std::uint64_t bytes = 0;
  std::uint64_t runs = 0;
  std::string lane;
  double seconds = 0;                   // first byte asked to validated
  double post_seconds = 0;              // pull() called to first byte asked
  std::size_t shard = 0;                // whose, of an owner of several
  std::vector<PullResult> shards = {};  // what each of them gave; empty: it is one owner's
  bool operator==(const PullResult&) const = default;
};

// A number that other threads may read while it grows; copied only while it does not.
struct SharedCount : std::atomic<std::uint64_t> {
  SharedCount() noexcept : atomic(0) {}
  SharedCount(const SharedCount& other) noexcept : atomic(other.load()) {}
  using atomic::operator=;
};

// What a pull wants. Fixed once Lane::submit has returned.
struct PullJob {
  LeaseRef lease;
  std::uint64_t watermark = 0;
  Clock::time_point deadline;
  Clock::time_point called;
  // Either of them, as the lane takes it.
  std::vector<Run> runs;
  std::vector<RunGroup> groups;       // of which the lane has taken none yet, and
  std::shared_ptr<GroupCursor> rest;  // null, or: those to be planned before Lane::submit returns
  std::shared_ptr<const Plan> plan;   // null, or: takes them back
  SharedCount bytes;                  // of what is planned
  SharedCount run_count;
  std::uint64_t beside = 0;                  // bytes that land with it, of other parts of a gather
  std::shared_ptr<const DeviceEvent> after;  // null, or: the destination is free once this has passed
  std::string lane;
  std::string peer;
  std::shared_ptr<const Published> local;
  bool permutes = false;  // see Plan
  // Null; or: no byte moves, the owner's digest of them is put here.
  std::shared_ptr<Digest> digest;

  // Bytes that land together with it, its own included.
  [[nodiscard]] std::uint64_t landing() const noexcept { return bytes + beside; }
  // Throws Error(plan) where an owner cannot be asked for so many runs.
  void check_runs(std::uint64_t count) const;
};

// What a pull is made of, where other pulls do its work.
class PullMakeup : NonCopyable {
 public:
  virtual ~PullMakeup() = default;
  // What it gave, `seconds` after pull() was called. Only once it is valid.
  [[nodiscard]] virtual PullResult result(double seconds) const = 0;
  [[nodiscard]] virtual std::uint64_t bytes() const = 0;
  [[nodiscard]] virtual std::uint64_t runs() const = 0;
  // See Pull.
  virtual bool help() = 0;
};

// One read under a lease. It ends once: valid, or failed with a reason. It is quiet when no byte can land any more,
// which a lane says and which may be later than the end (a cancelled pull ends at once). Thread-safe.
class Pull : NonCopyable {
 public:
  // `counters`: null where its parts are counted.
  Pull(PullJob&& job, std::shared_ptr<Counters> counters);
  ~Pull();

  [[nodiscard]] const ProcessGuard& process() const noexcept { return _process; }
  [[nodiscard]] const PullJob& job() const noexcept { return _job; }

  // For callers.
  [[nodiscard]] bool done() const noexcept { return _done.load(std::memory_order_acquire); }
  [[nodiscard]] bool quiet() const noexcept { return _quiet.load(std::memory_order_acquire); }
  // True if done within the time. Helps meanwhile, where it can.
  bool wait_until(Clock::time_point deadline);
  bool wait_quiet_until(Clock::time_point deadline);
  // Whether somebody waits for it now.
  [[nodiscard]] bool awaited() const noexcept { return _waiters.load(std::memory_order_relaxed) > 0; }
  // Fails it with Error(cancelled), at once.
  void cancel();
  // The outcome, or throws the failure; Error(invalid_state) if it is not done.
  [[nodiscard]] PullResult result() const;
  // Why it failed, once it has.
  [[nodiscard]] std::optional<Error> failure() const;
  // An eventfd that is readable once done; made on the first call, owned by this.
  int fileno();

  // For lanes that take groups.
  [[nodiscard]] bool has_groups() const noexcept { return !_job.groups.empty() || _job.rest; }
  // The next ones; where they are still to be planned, of about so many blocks. Throws Error(plan), see refused().
  [[nodiscard]] std::vector<RunGroup> take_groups(std::size_t blocks);
  void give_back(std::vector<RunGroup> groups) const { _job.plan->reuse(std::move(groups)); }
  // Plans what is left, unless it is done. Throws Error(plan), see refused().
  void plan_rest();
  // It is a part of what brings so many bytes more; before it is submitted.
  void lands_beside(std::uint64_t bytes) noexcept { _job.beside = bytes; }
  // Why planning ended: there are no further groups.
  [[nodiscard]] const std::optional<Error>& refused() const noexcept { return _refused; }

  // For lanes. Only the first end counts; the others return false.
  void asked(Clock::time_point now = Clock::now()) noexcept;  // the first byte is being asked for
  bool succeed();
  bool fail(Error error);
  void set_quiet();
  // Called once, from whichever thread fails the pull from outside the lane, so that the lane lets go of it soon.
  void on_abort(std::function<void()> hook);
  // Fails it from outside the lane.
  void abort(Error error);
  // Before it is started. Called by whoever ends it or makes it quiet, without a lock.
  void watch(std::function<void()> watcher) { _watcher = std::move(watcher); }
  // Before anything is started: it is as large as what it is made of, which ends it.
  void consist_of(std::shared_ptr<PullMakeup> makeup);
  // Before it is started. `help`: does a bounded piece of its work in the calling thread; false: there is none for it.
  void help_by(std::function<bool()> help) { _help = std::move(help); }
  // For a thread that has nothing else to do.
  bool help() { return _makeup ? _makeup->help() : _help && _help(); }
  // For messages: "pull of 4096 bytes under lease 3".
  [[nodiscard]] std::string what() const;
  [[nodiscard]] Error error(Errc code, const std::string& message, const std::string& status = {},
                            const std::string& hint = {}) const;

 private:
  bool end(std::optional<Error> failure);
  void count_end(bool valid) noexcept;
  void count(const std::vector<RunGroup>& groups) noexcept;
  [[nodiscard]] std::vector<RunGroup> plan_some(std::size_t blocks);

  const ProcessGuard _process;
  PullJob _job;
  std::shared_ptr<Counters> _counters;
  std::atomic<bool> _done{false};
  std::atomic<bool> _quiet{false};
  std::atomic<unsigned> _waiters{0};
  mutable std::mutex _mutex;
  std::condition_variable _changed;
  std::optional<Error> _failure;
  std::optional<Error> _refused;
  std::function<void()> _hook;
  std::function<void()> _watcher;
  std::function<bool()> _help;
  std::shared_ptr<PullMakeup> _makeup;  // null: a lane does it
  Clock::time_point _asked;
  Clock::time_point _ended;
  Fd _event;
};

}  // namespace kvdirect
