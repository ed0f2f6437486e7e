// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/non_copyable.h"

namespace kvdirect {

// A few threads that copy for pulls too large for their callers, a step of each task in turn, and look after tasks that
// wait. A thread is woken for work, and one of them for the next task that is due.
class CopyPool : NonCopyable {
 public:
  using Clock = std::chrono::steady_clock;

  class Task;
  using Waiting = std::multimap<Clock::time_point, std::shared_ptr<Task>>;

  class Task : NonCopyable {
   public:
    virtual ~Task() = default;
    // Does a bounded piece of work. nullopt: finished; else when to call again.
    virtual std::optional<Clock::time_point> step() noexcept = 0;

   private:
    friend class CopyPool;
    std::vector<Waiting::iterator> _places;  // among those that wait; one, where one thread steps it
  };

  // Throws Error(transport) where the threads cannot be had.
  explicit CopyPool(unsigned threads);
  ~CopyPool() { stop(); }

  // False once stopped. The same task may be given again while it is here, to be stepped by several threads.
  [[nodiscard]] bool submit(std::shared_ptr<Task> task, Clock::time_point when);
  // Steps a task that is ready and that no thread has taken yet, in the calling thread, which would only wait for it:
  // it runs already, where one that is woken may have to wait for a processor. False if there is nothing to step.
  bool help(const Task& task);
  // Look at this task now: it was ended from outside.
  void nudge(Task& task);
  // Runs what is left until it is finished, so end the tasks' pulls first; joins.
  void stop();

 private:
  void run();
  // Under the lock, as all below. Takes what is to be done next, or waits for it; null when there will be none any
  // more.
  std::shared_ptr<Task> take(std::unique_lock<std::mutex>& lock);
  // Lets go of the lock meanwhile.
  void step(std::unique_lock<std::mutex>& lock, std::shared_ptr<Task> task);
  void put(std::shared_ptr<Task> task, Clock::time_point when);
  Waiting::iterator make_ready(Waiting::iterator entry);
  void make_due_ready();
  void wake_one();

  std::mutex _mutex;
  std::condition_variable _work;  // for threads that wait for a ready task
  std::condition_variable _due;   // for the one that waits for the next due time
  std::size_t _idle = 0;          // threads that wait for work
  bool _somebody_waits_for_due = false;
  std::deque<std::shared_ptr<Task>> _ready;
  Waiting _waiting;
  std::size_t _running = 0;
  std::uint64_t _nudges = 0;
  bool _stop = false;
  std::vector<std::thread> _threads;
};

}  // namespace kvdirect
