// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/leased_read.h"

#include <algorithm>
#include <new>
#include <thread>
#include <utility>

#include "test_hooks.h"

namespace kvdirect {

namespace {

// Between two looks at whether the destination's GPU is done with it.
constexpr auto free_interval = std::chrono::microseconds(25);
// Between two looks of a test that holds a pull half-way.
constexpr auto stall_interval = std::chrono::milliseconds(8);
// The more reads of this process wait, the less often each looks: together they take a few percent of a processor.
std::atomic<std::int64_t> waiting_reads{0};

}  // namespace

LeasedRead::LeasedRead(std::shared_ptr<Pull> pull, std::unique_ptr<LaneRead> lane, std::size_t slots, Helpers helpers)
    : _pull(std::move(pull)), _lane(std::move(lane)), _slots(slots), _helpers(std::move(helpers)) {}

std::optional<Clock::time_point> LeasedRead::step(Clock::time_point now) noexcept {
  if (_stage == Stage::last) return conclude(now);
  try {
    if (!_pull->done()) {
      if (const auto next = advance(now)) return next;
    }
  } catch (const Error& error) {
    _pull->fail(error);
  } catch (const std::exception& error) {
    _pull->fail(_pull->error(Errc::transport, "failed", error.what()));
  }
  return leave(now);
}

void LeasedRead::step_on(const std::shared_ptr<CopyPool>& pool, Clock::time_point when) {
  // Weak: the hook lives in the pull.
  _pull->on_abort([weak_pool = std::weak_ptr<CopyPool>(pool), weak_read = weak_from_this()] {
    const auto alive = weak_pool.lock();
    const auto waiting = weak_read.lock();
    if (alive && waiting) alive->nudge(*waiting);
  });
  if (!pool->submit(shared_from_this(), when)) {
    finish(_pull->error(Errc::closed, "could not start: the engine is closed"));
  }
}

std::optional<Clock::time_point> LeasedRead::run() noexcept {
  while (true) {
    const auto next = step(Clock::now());
    if (!next || *next > Clock::now()) return next;
  }
}

void LeasedRead::finish(const Error& why) noexcept {
  _pull->fail(why);
  while (const auto next = step(Clock::now())) std::this_thread::sleep_until(*next);
}

// When to go on; nullopt: nothing is left to move for this thread.
std::optional<Clock::time_point> LeasedRead::advance(Clock::time_point now) {
  check_deadline(now);
  // At first the caller has only just asked.
  if (_begun.exchange(true, std::memory_order_relaxed)) _lane->check_owner();
  if (_stage != Stage::data) {
    if (const auto later = await_final(now)) return later;
    _pull->asked(now);
    spread();
  }
  return move_on(now);
}

void LeasedRead::check_deadline(Clock::time_point now) const {
  if (now < _pull->job().deadline) return;
  const char* late = "did not finish by its deadline";
  if (_stage == Stage::free) late = "found its destination still in use by its deadline";
  if (_stage == Stage::final) late = "found the positions it wants not final by its deadline";
  throw _pull->error(Errc::timeout, late);
}

// nullopt: the destination is free, and all that is wanted is final.
std::optional<Clock::time_point> LeasedRead::await_final(Clock::time_point now) {
  const PullJob& job = _pull->job();
  if (job.after && !job.after->passed()) return std::min(now + free_interval, job.deadline);
  _stage = Stage::final;
  if (_look_again && now < *_look_again) return *_look_again;
  const auto positions = final_positions();
  if (!positions) return std::min(now + _lane->pace().poll_interval, job.deadline);
  if (*positions >= job.watermark) return std::nullopt;
  const auto wait = std::exchange(_wait, std::min(_wait * 2, _lane->pace().longest_wait));
  count_waiting(true);
  _look_again =
      std::min(now + std::max<Clock::duration>(wait, _lane->pace().wait_per_read * waiting_reads.load()), job.deadline);
  return _look_again;
}

void LeasedRead::count_waiting(bool waits) noexcept {
  if (std::exchange(_waits, waits) != waits) waiting_reads += waits ? 1 : -1;
}

// What the words say now; nullopt: they are on their way. Throws unless they are those of the pull's lease.
std::optional<std::uint64_t> LeasedRead::final_positions() {
  const LeaseRef lease = _pull->job().lease;
  if (lease.slot >= _slots) throw _pull->error(Errc::lease_expired, "names a lease slot the owner does not have");
  const auto words = _lane->words();
  if (!words) return std::nullopt;
  if (words->epoch == lease.epoch) return words->watermark;
  throw _pull->error(Errc::lease_expired, "failed: the owner no longer promises these blocks", {},
                     "compute them locally, or ask the owner again");
}

// From here on other threads help. Before, there was one only.
void LeasedRead::spread() {
  _stage = Stage::data;
  count_waiting(false);
  const std::size_t threads = std::min(_helpers.threads, _lane->parts());
  for (std::size_t i = 1; i < threads; ++i) {
    _inside.fetch_add(1, std::memory_order_relaxed);
    bool helped = false;
    try {
      helped = _helpers.ask(shared_from_this());
    } catch (const std::bad_alloc&) {
      // One thread does it alone.
    }
    if (!helped) _inside.fetch_sub(1, std::memory_order_relaxed);
  }
}

std::optional<Clock::time_point> LeasedRead::move_on(Clock::time_point now) {
  const PullJob& job = _pull->job();
  const LaneRead::Pace& pace = _lane->pace();
  for (std::uint64_t moved = 0; _lane->more();) {
    const std::uint64_t allowed =
        pull_allowance(_moved.load(std::memory_order_relaxed), job.bytes, std::max(pace.move_bytes, pace.step_bytes));
    if (allowed == 0) {
      static_cast<void>(_lane->words());  // an owner that is gone is noticed
      return now + stall_interval;
    }
    if (moved >= pace.step_bytes) return now;
    const std::uint64_t more = _lane->move(std::min(allowed, pace.move_bytes));
    if (more == 0) return std::min(now + pace.poll_interval, job.deadline);
    moved += more;
    _moved.fetch_add(more, std::memory_order_relaxed);
  }
  if (!_lane->settled()) return std::min(now + pace.poll_interval, job.deadline);
  return std::nullopt;
}

// This thread moves no more.
std::optional<Clock::time_point> LeasedRead::leave(Clock::time_point now) noexcept {
  try {
    _lane->fence();
  } catch (const Error& error) {
    _pull->fail(error);
  }
  // Whoever leaves last sees what all of them wrote, and that nobody writes any more.
  if (_inside.fetch_sub(1, std::memory_order_acq_rel) != 1) return std::nullopt;
  _stage = Stage::last;
  count_waiting(false);
  return conclude(now);
}

// Everything has landed, or the pull has failed.
std::optional<Clock::time_point> LeasedRead::conclude(Clock::time_point now) noexcept {
  try {
    if (!_pull->done()) {
      if (!final_positions()) {
        check_deadline(now);
        return std::min(now + _lane->pace().poll_interval, _pull->job().deadline);
      }
      _pull->succeed();
    }
  } catch (const Error& error) {
    _pull->fail(error);
  } catch (const std::exception& error) {
    _pull->fail(_pull->error(Errc::transport, "failed", error.what()));
  }
  return drain(now);
}

// Over: quiet once nothing can land any more.
std::optional<Clock::time_point> LeasedRead::drain(Clock::time_point now) noexcept {
  bool settled = true;
  try {
    settled = _lane->settled();
  } catch (const std::exception&) {
    // The device failed, and does nothing any more.
  }
  if (settled) {
    _lane.reset();
    _pull->set_quiet();
    return std::nullopt;
  }
  const LaneRead::Pace& pace = _lane->pace();
  if (!_drained_by) _drained_by = now + pace.drain_time;
  if (now < *_drained_by) return std::min(now + pace.poll_interval, *_drained_by);
  _drained_by.reset();
  if (_lane->give_up()) return now + pace.poll_interval;
  return std::nullopt;
}

}  // namespace kvdirect
