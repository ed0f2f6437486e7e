// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "base/fd.h"

namespace kvdirect {

// Waits for descriptors and calls whoever cares about them. One thread's.
class Reactor {
 public:
  using Clock = std::chrono::steady_clock;
  // Epoll's events: readable, writable, gone.
  using Handler = std::function<void(std::uint32_t events)>;

  // Throws Error(transport).
  Reactor();

  // Calls `handler` whenever `fd` is readable, until remove(). Throws Error(transport).
  void add(int fd, Handler handler);
  // And also when it is writable.
  void want_write(int fd, bool on) noexcept;
  void remove(int fd) noexcept;
  // Waits for something until then, at most 10 s, and calls handlers. True if there was anything.
  bool turn(Clock::time_point until);

 private:
  Fd _epoll;
  // Shared: a handler may remove itself while it runs.
  std::unordered_map<int, std::shared_ptr<Handler>> _handlers;
};

}  // namespace kvdirect
