// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace kvdirect {

// A few threads that copy for pulls too large for their callers, a step of each task in turn.
class CopyPool {
 public:
  using Clock = std::chrono::steady_clock;

  class Task {
   public:
    Task() = default;
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    virtual ~Task() = default;
    // Does a bounded piece of work. nullopt: finished; else when to call again.
    virtual std::optional<Clock::time_point> step() noexcept = 0;
  };

  explicit CopyPool(unsigned threads);
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;
  ~CopyPool() { stop(); }

  // False once stopped.
  [[nodiscard]] bool submit(std::unique_ptr<Task> task, Clock::time_point when);
  // Look at every task now: one of them was ended from outside.
  void nudge();
  // Runs what is left until it is finished, so end the tasks' pulls first; joins.
  void stop();

 private:
  struct Entry {
    std::unique_ptr<Task> task;
    Clock::time_point due;
  };
  void run();
  // Takes the task that is due next, or waits for one; false when there will be none any more.
  bool take(std::unique_lock<std::mutex>& lock, Entry& entry);

  std::mutex _mutex;
  std::condition_variable _changed;
  std::vector<Entry> _waiting;
  std::size_t _running = 0;
  std::uint64_t _nudges = 0;
  bool _stop = false;
  std::vector<std::thread> _threads;
};

}  // namespace kvdirect
