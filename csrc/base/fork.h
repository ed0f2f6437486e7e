// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace kvdirect {

// Descriptors that a forked child must not keep: the other end of a socket would not notice that this process died.
// A bit for each number, because no lock can be taken in a child: a thread that is not there may hold it.
class ParentOnlyDescriptors {
 public:
  void add(int fd) noexcept {
    if (known(fd)) word(fd).fetch_or(bit(fd), std::memory_order_relaxed);
  }
  // Before it is closed: its number may be another's at once.
  void remove(int fd) noexcept {
    if (known(fd)) word(fd).fetch_and(~bit(fd), std::memory_order_relaxed);
  }
  // Of a child: each number stands for /dev/null from now on, so that whoever has it may close it. Only calls that are
  // safe in a signal handler.
  void drop_all() noexcept {
    int null = -1;
    for (std::size_t i = 0; i < _words.size(); ++i) {
      std::uint64_t left = _words[i].load(std::memory_order_relaxed);
      if (left == 0) continue;
      _words[i].store(0, std::memory_order_relaxed);
      for (; left != 0; left &= left - 1) {
        const int fd = static_cast<int>(i * bits + static_cast<std::size_t>(__builtin_ctzll(left)));
        if (null < 0) null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0 || dup3(null, fd, O_CLOEXEC) < 0) close(fd);
      }
    }
    if (null >= 0) close(null);
  }

 private:
  static constexpr std::size_t bits = 64;
  static constexpr std::size_t most = std::size_t{1} << 20;  // Linux's fs.nr_open

  static bool known(int fd) noexcept { return fd >= 0 && static_cast<std::size_t>(fd) < most; }
  static std::uint64_t bit(int fd) noexcept { return std::uint64_t{1} << (static_cast<std::size_t>(fd) % bits); }
  std::atomic<std::uint64_t>& word(int fd) noexcept { return _words[static_cast<std::size_t>(fd) / bits]; }

  std::array<std::atomic<std::uint64_t>, most / bits> _words{};
};

inline constinit ParentOnlyDescriptors parent_only_descriptors;

// Of this process, once somebody has asked for its generation(). Cheaper than getpid(), which is a system call.
inline std::atomic<pid_t> known_pid{0};

// How many forks lie between this process and the one that first asked.
[[nodiscard]] inline std::uint32_t generation() noexcept {
  static std::atomic<std::uint32_t> forks{0};
  [[maybe_unused]] static const int watched = [] {
    known_pid.store(getpid(), std::memory_order_relaxed);
    return pthread_atfork(nullptr, nullptr, [] {
      known_pid.store(getpid(), std::memory_order_relaxed);
      forks.fetch_add(1, std::memory_order_relaxed);
      parent_only_descriptors.drop_all();
    });
  }();
  return forks.load(std::memory_order_relaxed);
}

}  // namespace kvdirect
