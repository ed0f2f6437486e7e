// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/non_copyable.h"
#include "lanes/copy_pool.h"
#include "lease.h"
#include "pull.h"

namespace kvdirect {

// What differs between one-sided lanes: how one pull reads an owner's lease words, and how it moves bytes.
class LaneRead : NonCopyable {
 public:
  // How a lane wants to be asked.
  struct Pace {
    Clock::duration longest_wait;   // between two looks at a watermark that is too low, or
    Clock::duration wait_per_read;  // so long for each read of this process that waits, if that is longer
    Clock::duration poll_interval;  // between two looks at what is under way
    Clock::duration drain_time;     // what is under way when the pull is over may take so long
    std::uint64_t step_bytes;       // moved in one step at most; others get their turn then
    std::uint64_t move_bytes;       // moved in one call at most
  };

  virtual ~LaneRead() = default;

  [[nodiscard]] virtual const Pace& pace() const noexcept = 0;
  // How many threads can move bytes of it at once.
  [[nodiscard]] virtual std::size_t parts() const noexcept { return 1; }

  // Throws Error(peer_lost) if the owner is known to be gone.
  virtual void check_owner() = 0;
  // The words of the pull's lease, read after the last move() returned and settled; nullopt: they are on their way,
  // call again. Throws Error(peer_lost, transport).
  [[nodiscard]] virtual std::optional<LeaseCopy> words() = 0;

  // By several threads at once where there are several parts.
  // Whether some bytes were not given to move() yet.
  [[nodiscard]] virtual bool more() const = 0;
  // Begins to move up to `most` bytes and says how many; 0: none can be begun just now. Throws Error(peer_lost,
  // transport).
  virtual std::uint64_t move(std::uint64_t most) = 0;
  // Whether all that was begun has landed, or never will.
  [[nodiscard]] virtual bool settled() = 0;
  // Orders what has landed before all that the calling thread does afterwards, reads of the lease words included.
  // Throws Error(transport) where that is not possible.
  virtual void fence() = 0;

  // What was begun did not settle in drain_time. True: wait once more; false: nobody can say when it will.
  [[nodiscard]] virtual bool give_up() noexcept = 0;
};

class LeasedRead;

// Threads that step one read beside the one that began it.
struct Helpers {
  std::size_t threads = 1;  // that may step at once, the first one counted
  // Asks one more to step until it is told nullopt; false if there is none.
  std::function<bool(std::shared_ptr<LeasedRead> read)> ask;
};

// One pull over a one-sided lane, as a state machine that whoever has time steps. What makes such a read safe stands
// here, and only here: the watermark is read before the data, the epoch after it. What was not final when it was read,
// or was not promised any more once it had landed, is never accepted.
//
//   free      the destination is still in use (PullJob::after)
//   final     the watermark is too low
//   data      bytes move; from here on several threads may step
//   epoch     the last thread has fenced what all of them moved, and reads the words again
//   settling  over, and what is under way may still land; quiet afterwards
class LeasedRead final : public std::enable_shared_from_this<LeasedRead>, public CopyPool::Task {
 public:
  // `slots`: how many leases the owner's table has.
  LeasedRead(std::shared_ptr<Pull> pull, std::unique_ptr<LaneRead> lane, std::size_t slots, Helpers helpers = {});
  ~LeasedRead() override { count_waiting(false); }

  // As far as it goes now. When to call again at the latest; nullopt: this thread is done with it.
  std::optional<Clock::time_point> step(Clock::time_point now) noexcept;
  std::optional<Clock::time_point> step() noexcept override { return step(Clock::now()); }
  // Has the pool step it from `when` on, at once when its pull is ended from outside.
  void step_on(const std::shared_ptr<CopyPool>& pool, Clock::time_point when);
  // Steps until there is something to wait for: when it is to be stepped again, or nullopt.
  std::optional<Clock::time_point> run() noexcept;
  // Ends it in a thread that has nothing else to do. Bounded by the lane's drain_time.
  void finish(const Error& why) noexcept;

 private:
  enum class Stage : std::uint8_t { free, final, data, last };

  std::optional<Clock::time_point> advance(Clock::time_point now);
  std::optional<Clock::time_point> await_final(Clock::time_point now);
  std::optional<Clock::time_point> move_on(Clock::time_point now);
  std::optional<Clock::time_point> leave(Clock::time_point now) noexcept;
  std::optional<Clock::time_point> conclude(Clock::time_point now) noexcept;
  std::optional<Clock::time_point> drain(Clock::time_point now) noexcept;
  [[nodiscard]] std::optional<std::uint64_t> final_positions();
  void count_waiting(bool waits) noexcept;
  void check_deadline(Clock::time_point now) const;
  void spread();

  std::shared_ptr<Pull> _pull;
  std::unique_ptr<LaneRead> _lane;
  const std::size_t _slots;
  const Helpers _helpers;
  // Written by the only thread there is before `data` and after the others have left.
  Stage _stage = Stage::free;
  Clock::duration _wait = std::chrono::microseconds(500);
  std::optional<Clock::time_point> _look_again;
  bool _waits = false;  // counted among those whose watermark is too low
  std::optional<Clock::time_point> _drained_by;
  std::atomic<bool> _begun{false};
  std::atomic<std::uint64_t> _moved{0};
  std::atomic<std::size_t> _inside{1};  // threads that may still move bytes
};

}  // namespace kvdirect
