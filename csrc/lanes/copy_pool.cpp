// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/copy_pool.h"

#include <sys/prctl.h>

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/threads.h"

namespace kvdirect {

namespace {

// Due times further away than the first are rounded up to a multiple of it, those far away to one of the second: one
// wake-up then serves many tasks, where many wait most.
using FineGrid = std::chrono::duration<std::int64_t, std::ratio<1, 2000>>;
using CoarseGrid = std::chrono::duration<std::int64_t, std::ratio<1, 125>>;
constexpr int far = 4;  // steps of the coarse grid

CopyPool::Clock::time_point on_grid(CopyPool::Clock::time_point when) {
  using std::chrono::ceil;
  const auto away = when - CopyPool::Clock::now();
  if (away < FineGrid(1)) return when;
  if (away < CoarseGrid(far)) return CopyPool::Clock::time_point(ceil<FineGrid>(when.time_since_epoch()));
  return CopyPool::Clock::time_point(ceil<CoarseGrid>(when.time_since_epoch()));
}

}  // namespace

CopyPool::CopyPool(unsigned threads) {
  try {
    for (unsigned i = 0; i < threads; ++i) _threads.emplace_back([this] { run(); });
  } catch (const std::system_error& error) {
    // A joinable thread that is destroyed ends the process.
    const std::size_t started = _threads.size();
    stop();
    throw Error(Errc::transport,
                "cannot start copy thread " + std::to_string(started + 1) + " of " + std::to_string(threads),
                {.operation = "make an engine",
                 .status = error.code().message(),
                 .hint = "raise the limit of processes (ulimit -u, the container's pids.max), or lower copy_threads"});
  }
}

bool CopyPool::submit(std::shared_ptr<Task> task, Clock::time_point when) {
  const std::lock_guard lock(_mutex);
  // What runs may still hand on a part of its work while the rest winds down.
  if (_stop && _running == 0) return false;
  put(std::move(task), when);
  if (!_ready.empty() || !_somebody_waits_for_due) wake_one();
  return true;
}

void CopyPool::wake_one() {
  if (_idle > 0) {
    _work.notify_one();
  } else if (_somebody_waits_for_due) {
    _due.notify_one();
  }
}

void CopyPool::put(std::shared_ptr<Task> task, Clock::time_point when) {
  if (_stop || when <= Clock::now()) {
    _ready.push_back(std::move(task));
    return;
  }
  Task& waits = *task;
  const auto entry = _waiting.emplace(on_grid(when), std::move(task));
  waits._places.push_back(entry);
  // Whoever watches sleeps until what was the first.
  if (entry == _waiting.begin() && _somebody_waits_for_due) _due.notify_one();
}

CopyPool::Waiting::iterator CopyPool::make_ready(Waiting::iterator entry) {
  std::erase(entry->second->_places, entry);
  _ready.push_back(std::move(entry->second));
  return _waiting.erase(entry);
}

void CopyPool::make_due_ready() {
  const auto now = Clock::now();
  for (auto entry = _waiting.begin(); entry != _waiting.end() && (_stop || entry->first <= now);) {
    entry = make_ready(entry);
  }
}

void CopyPool::nudge(Task& task) {
  const std::lock_guard lock(_mutex);
  ++_nudges;
  while (!task._places.empty()) {
    make_ready(task._places.back());
    wake_one();
  }
}

void CopyPool::stop() {
  {
    const std::lock_guard lock(_mutex);
    _stop = true;
  }
  _work.notify_all();
  _due.notify_all();
  for (std::thread& thread : _threads) {
    if (thread.joinable()) thread.join();
  }
}

std::shared_ptr<CopyPool::Task> CopyPool::take(std::unique_lock<std::mutex>& lock) {
  while (true) {
    make_due_ready();
    if (!_ready.empty()) {
      auto task = std::move(_ready.front());
      _ready.pop_front();
      // Others go on with the rest: with what is ready, or with watching what is due.
      if (!_ready.empty() || (!_waiting.empty() && !_somebody_waits_for_due)) wake_one();
      return task;
    }
    if (_stop && _running == 0) return nullptr;
    if (_waiting.empty() || _somebody_waits_for_due) {
      ++_idle;
      _work.wait(lock);
      --_idle;
      continue;
    }
    const auto until = _waiting.begin()->first;
    _somebody_waits_for_due = true;
    _due.wait_until(lock, until);
    _somebody_waits_for_due = false;
  }
}

void CopyPool::run() {
  block_signals();
  name_thread("kvd-copy");
  // Waits of microseconds are meant as such: the kernel adds 50 by default.
  prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
  std::unique_lock lock(_mutex);
  while (auto task = take(lock)) step(lock, std::move(task));
}

void CopyPool::step(std::unique_lock<std::mutex>& lock, std::shared_ptr<Task> task) {
  ++_running;
  const std::uint64_t nudges = _nudges;
  lock.unlock();
  const auto again = task->step();
  if (!again) task.reset();
  lock.lock();
  --_running;
  // A nudge while it ran may have been for it.
  if (again) put(std::move(task), nudges == _nudges ? *again : Clock::time_point{});
  if (!_stop) return;
  _work.notify_all();
  _due.notify_all();
}

bool CopyPool::help(const Task& task) {
  std::unique_lock lock(_mutex);
  const auto entry = std::ranges::find(_ready, &task, &std::shared_ptr<Task>::get);
  if (entry == _ready.end()) return false;
  auto taken = std::move(*entry);
  _ready.erase(entry);
  step(lock, std::move(taken));
  return true;
}

}  // namespace kvdirect
