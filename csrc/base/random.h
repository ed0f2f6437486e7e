// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/random.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "base/error.h"

namespace kvdirect {

// Bytes nobody can guess, from the kernel.
inline void fill_random(std::span<std::byte> bytes) {
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got = getrandom(bytes.data() + filled, bytes.size() - filled, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      throw Error(Errc::transport, "no random bytes", {.operation = "getrandom", .status = strerror(errno)});
    filled += static_cast<std::size_t>(got);
  }
}

// Never 0.
inline std::uint64_t random_u64() {
  std::uint64_t value = 0;
  while (value == 0) fill_random(std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

}  // namespace kvdirect
