// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <semaphore>
#include <thread>
#include <utility>
#include <vector>

namespace kvdirect {

// Runs a few threads and events in every order: a thread stops at each point(), and what goes on next, it, another
// thread or an event, is chosen; after a run, next() makes the following run choose otherwise. One at a time runs.
class Interleaving {
 public:
  using Clock = std::chrono::steady_clock;
  using Step = std::function<std::optional<Clock::time_point>()>;

  Interleaving() = default;
  Interleaving(const Interleaving&) = delete;
  Interleaving& operator=(const Interleaving&) = delete;
  ~Interleaving() {
    for (const auto& worker : _workers) {
      worker->step = nullptr;
      worker->go.release();
      worker->thread.join();
    }
  }

  // A thread that begins once `ready`, and calls `step` until that returns nullopt; else it sleeps until something
  // else has happened, or nothing else can, and `wake` hears until when.
  void add_thread(std::function<bool()> ready, Step step, std::function<void(Clock::time_point)> wake) {
    if (_threads.size() == _workers.size()) {
      _workers.push_back(std::make_unique<Worker>());
      Worker& worker = *_workers.back();
      worker.thread = std::thread([&worker] { worker.loop(); });
    }
    _threads.push_back({std::move(ready), std::move(wake), _workers[_threads.size()].get()});
    _threads.back().worker->step = std::move(step);
  }
  // Happens once, at any time from when it is possible.
  void add_event(std::function<bool()> possible, std::function<void()> happen) {
    _events.push_back({std::move(possible), std::move(happen)});
  }

  // On one of the threads: everything else may happen here.
  void point() {
    Worker& worker = *_current;
    worker.at_point = true;
    worker.back.release();
    worker.go.acquire();
  }

  void run() {
    _depth = 0;
    while (choose()) {
    }
    ++_runs;
    _threads.clear();
    _events.clear();
  }

  // Whether there is another order.
  bool next() {
    while (!_choices.empty() && ++_choices.back().taken == _choices.back().count) _choices.pop_back();
    return !_choices.empty();
  }
  [[nodiscard]] std::size_t runs() const noexcept { return _runs; }

 private:
  struct Worker {
    std::binary_semaphore go{0};
    std::binary_semaphore back{0};
    Step step;
    bool at_point = false;
    std::optional<Clock::time_point> next;
    std::thread thread;
    void loop() {
      for (go.acquire(); step; go.acquire()) {
        next = step();
        at_point = false;
        back.release();
      }
    }
  };
  struct Thread {
    std::function<bool()> ready;
    std::function<void(Clock::time_point)> wake;
    Worker* worker;
    bool asleep = false;
    bool finished = false;
  };
  struct Event {
    std::function<bool()> possible;
    std::function<void()> happen;
    bool happened = false;
  };
  struct Choice {
    std::size_t taken = 0;
    std::size_t count = 0;
  };

  // Does one thing; false if there is none.
  bool choose() {
    std::vector<std::function<void()>> possible;
    for (Thread& thread : _threads) {
      if (!thread.finished && !thread.asleep && thread.ready()) possible.emplace_back([&] { go_on(thread); });
    }
    for (Event& event : _events) {
      if (event.happened || !event.possible()) continue;
      possible.emplace_back([&] {
        event.happened = true;
        event.happen();
        for (Thread& thread : _threads) thread.asleep = false;
      });
    }
    if (possible.empty()) return wake_one();
    if (_depth == _choices.size()) _choices.push_back({0, possible.size()});
    possible.at(_choices[_depth++].taken)();
    return true;
  }

  bool wake_one() {
    for (Thread& thread : _threads) {
      if (thread.finished || !thread.asleep) continue;
      go_on(thread);
      return true;
    }
    return false;
  }

  void go_on(Thread& thread) {
    Worker& worker = *thread.worker;
    if (!worker.at_point && worker.next) thread.wake(*worker.next);
    worker.next.reset();
    _current = &worker;
    worker.go.release();
    worker.back.acquire();
    if (worker.at_point) return;
    thread.finished = !worker.next;
    thread.asleep = !thread.finished;
  }

  std::vector<std::unique_ptr<Worker>> _workers;
  std::vector<Thread> _threads;
  std::vector<Event> _events;
  std::vector<Choice> _choices;
  std::size_t _depth = 0;
  std::size_t _runs = 0;
  Worker* _current = nullptr;
};

}  // namespace kvdirect
