// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace kvdirect {

// One thread that copies for pulls too large for their callers, a step of each in turn.
class Bulk {
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

  Bulk();
  Bulk(const Bulk&) = delete;
  Bulk& operator=(const Bulk&) = delete;
  ~Bulk() { stop(); }

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

  std::mutex _mutex;
  std::condition_variable _changed;
  std::vector<Entry> _incoming;
  bool _nudged = false;
  bool _stop = false;
  std::thread _thread;
};

}  // namespace kvdirect
