// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "session/notes.h"

#include <utility>

namespace kvdirect {

bool Notes::put(const Token& session, From note) {
  {
    const std::lock_guard lock(_mutex);
    std::size_t& held = _of_session[session];
    if (_notes.size() >= limits::notes || held >= limits::notes_per_session) {
      if (held == 0) _of_session.erase(session);
      return false;
    }
    ++held;
    _notes.push_back(std::move(note));
  }
  _came.notify_one();
  return true;
}

std::vector<Notes::From> Notes::take(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(_mutex);
  _came.wait_until(lock, deadline, [this] { return _closed || !_notes.empty(); });
  _of_session.clear();
  return std::exchange(_notes, {});
}

void Notes::close() {
  {
    const std::lock_guard lock(_mutex);
    _closed = true;
  }
  _came.notify_all();
}

}  // namespace kvdirect
