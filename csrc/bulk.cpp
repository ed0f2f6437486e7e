// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "bulk.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "threads.h"

namespace kvdirect {

Bulk::Bulk() : _thread([this] { run(); }) {}

bool Bulk::submit(std::unique_ptr<Task> task, Clock::time_point when) {
  {
    const std::lock_guard lock(_mutex);
    if (_stop) return false;
    _incoming.push_back({std::move(task), when});
  }
  _changed.notify_one();
  return true;
}

void Bulk::nudge() {
  {
    const std::lock_guard lock(_mutex);
    _nudged = true;
  }
  _changed.notify_one();
}

void Bulk::stop() {
  {
    const std::lock_guard lock(_mutex);
    _stop = true;
  }
  _changed.notify_one();
  if (_thread.joinable()) _thread.join();
}

void Bulk::run() {
  block_signals();
  name_thread("kvd-bulk");
  std::vector<Entry> tasks;
  while (true) {
    bool all = false;
    {
      std::unique_lock lock(_mutex);
      const auto awake = [this] { return _nudged || _stop || !_incoming.empty(); };
      if (tasks.empty()) {
        _changed.wait(lock, awake);
      } else {
        _changed.wait_until(lock, std::ranges::min_element(tasks, {}, &Entry::due)->due, awake);
      }
      std::move(_incoming.begin(), _incoming.end(), std::back_inserter(tasks));
      _incoming.clear();
      all = std::exchange(_nudged, false) || _stop;
      if (_stop && tasks.empty()) return;
    }
    const auto now = Clock::now();
    for (Entry& entry : tasks) {
      if (!all && entry.due > now) continue;
      const auto next = entry.task->step();
      if (next) {
        entry.due = *next;
      } else {
        entry.task.reset();
      }
    }
    std::erase_if(tasks, [](const Entry& entry) { return entry.task == nullptr; });
  }
}

}  // namespace kvdirect
