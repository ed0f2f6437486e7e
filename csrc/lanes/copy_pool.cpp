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

bool CopyPool::submit(std::unique_ptr<Task> task, Clock::time_point when) {
  {
    const std::lock_guard lock(_mutex);
    // What runs may still hand on a part of its work while the rest winds down.
    if (_stop && _running == 0) return false;
    _waiting.push_back({std::move(task), when});
  }
  _changed.notify_one();
  return true;
}

void CopyPool::nudge() {
  {
    const std::lock_guard lock(_mutex);
    ++_nudges;
    for (Entry& entry : _waiting) entry.due = {};
  }
  _changed.notify_all();
}

void CopyPool::stop() {
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

bool CopyPool::take(std::unique_lock<std::mutex>& lock, Entry& entry) {
  while (true) {
    if (_waiting.empty()) {
      if (_stop && _running == 0) return false;
      _changed.wait(lock);
      continue;
    }
    const auto next = std::ranges::min_element(_waiting, {}, &Entry::due);
    if (next->due > Clock::now()) {
      _changed.wait_until(lock, next->due);
      continue;
    }
    entry = std::move(*next);
    _waiting.erase(next);
    ++_running;
    return true;
  }
}

void CopyPool::run() {
  block_signals();
  name_thread("kvd-copy");
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
