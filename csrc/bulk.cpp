// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "bulk.h"

#include <sys/prctl.h>

#include <algorithm>
#include <utility>

#include "threads.h"

namespace kvdirect {

Bulk::Bulk(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) _threads.emplace_back([this] { run(); });
}

bool Bulk::submit(std::unique_ptr<Task> task, Clock::time_point when) {
  {
    const std::lock_guard lock(_mutex);
    // What runs may still hand on a part of its work while the rest winds down.
    if (_stop && _running == 0) return false;
    _waiting.push_back({std::move(task), when});
  }
  _changed.notify_one();
  return true;
}

void Bulk::nudge() {
  {
    const std::lock_guard lock(_mutex);
    ++_nudges;
    for (Entry& entry : _waiting) entry.due = {};
  }
  _changed.notify_all();
}

void Bulk::stop() {
  {
    const std::lock_guard lock(_mutex);
    _stop = true;
    for (Entry& entry : _waiting) entry.due = {};
  }
  _changed.notify_all();
  for (std::thread& thread : _threads) {
    if (thread.joinable()) thread.join();
  }
}

bool Bulk::take(std::unique_lock<std::mutex>& lock, Entry& entry) {
  while (true) {
    if (_waiting.empty()) {
      if (_stop && _running == 0) return false;
      _changed.wait(lock);
      continue;
    }
    const auto next = std::ranges::min_element(_waiting, {}, &Entry::due);
    const auto due = next->due;  // a copy: the wait takes a reference, and a submit moves the entries
    if (due > Clock::now()) {
      _changed.wait_until(lock, due);
      continue;
    }
    entry = std::move(*next);
    _waiting.erase(next);
    ++_running;
    return true;
  }
}

void Bulk::run() {
  block_signals();
  name_thread("kvd-bulk");
  // Waits of microseconds are meant as such: the kernel adds 50 by default.
  prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
  std::unique_lock lock(_mutex);
  Entry entry;
  while (take(lock, entry)) {
    const std::uint64_t nudges = _nudges;
    lock.unlock();
    const auto again = entry.task->step();
    if (!again) entry.task.reset();
    lock.lock();
    --_running;
    if (again) {
      const bool at_once = _stop || nudges != _nudges;
      _waiting.push_back({std::move(entry.task), at_once ? Clock::time_point{} : *again});
    }
    // Others may wait for this one's end, or for the task it has put back.
    if (_stop || again) _changed.notify_all();
  }
}

}  // namespace kvdirect
