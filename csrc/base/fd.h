// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <unistd.h>

#include <utility>

namespace kvdirect {

// Owns one file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : _fd(fd) {}
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
    if (_fd >= 0) ::close(_fd);
    _fd = -1;
  }
  [[nodiscard]] int get() const noexcept { return _fd; }
  explicit operator bool() const noexcept { return _fd >= 0; }

 private:
  int _fd = -1;
};

}  // namespace kvdirect
