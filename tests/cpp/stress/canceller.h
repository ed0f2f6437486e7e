// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "dice.h"
#include "engine.h"

namespace kvdirect::stress {

// Cancels pulls a little later, from a thread that did not ask for them.
class Canceller {
 public:
  Canceller() : _thread([this] { run(); }) {}
  ~Canceller() {
    {
      const std::lock_guard lock(_mutex);
      _over = true;
    }
    _changed.notify_one();
    _thread.join();
  }

  void cancel(std::shared_ptr<Pull> pull, Clock::time_point when) {
    {
      const std::lock_guard lock(_mutex);
      _due.emplace(when, std::move(pull));
    }
    _changed.notify_one();
  }

 private:
  void run() {
    std::unique_lock lock(_mutex);
    while (!_over) {
      if (_due.empty()) {
        _changed.wait_for(lock, std::chrono::milliseconds(100));
      } else if (const auto when = _due.begin()->first; when > Clock::now()) {
        _changed.wait_until(lock, when);
      } else {
        const std::shared_ptr<Pull> pull = _due.extract(_due.begin()).value().second;
        lock.unlock();
        pull->cancel();
        lock.lock();
      }
    }
  }

  std::mutex _mutex;
  std::condition_variable _changed;
  std::set<std::pair<Clock::time_point, std::shared_ptr<Pull>>> _due;
  bool _over = false;
  std::thread _thread;
};

}  // namespace kvdirect::stress
