// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <unistd.h>

#include <utility>

#include "base/fork.h"

namespace kvdirect {

// Owns one file descriptor. A forked child has it no longer, unless it is shared with forks.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : _fd(fd) {
    static_cast<void>(generation());  // forks are watched from now on
    parent_only_descriptors.add(fd);
  }
  [[nodiscard]] static Fd shared_with_forks(int fd) noexcept {
    Fd shared;
    shared._fd = fd;
    return shared;
  }
  Fd(Fd&& other) noexcept : _fd(std::exchange(other._fd, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      _fd = std::exchange(other._fd, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }

  void reset() noexcept {
    if (_fd < 0) return;
    parent_only_descriptors.remove(_fd);
    ::close(std::exchange(_fd, -1));
  }
  [[nodiscard]] int get() const noexcept { return _fd; }
  explicit operator bool() const noexcept { return _fd >= 0; }

 private:
  int _fd = -1;
};

}  // namespace kvdirect
