// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "stamp.h"

#include <array>
#include <cstring>

#include "layout.h"

namespace kvdirect::stress {

namespace {
constexpr std::uint64_t odd = 0x9E3779B97F4A7C15;
}

std::uint64_t stamp(std::uint64_t epoch, std::uint64_t position, std::uint64_t page) noexcept {
  std::uint64_t value = epoch ^ ((position * 16 + page + 1) * odd);
  value = (value ^ (value >> 31)) * odd;
  return value ^ (value >> 29);
}

[[gnu::noinline, gnu::no_sanitize("thread")]] void write_unwatched(std::uint64_t* row, std::uint64_t stamp) noexcept {
  for (std::uint64_t word = 0; word < layout::words; ++word) {
    __atomic_store_n(row + word, stamp + word * odd, __ATOMIC_RELAXED);
  }
}

bool row_holds(const std::uint64_t* row, std::uint64_t stamp) noexcept {
  std::array<std::uint64_t, layout::words> expected;
  write_unwatched(expected.data(), stamp);
  return std::memcmp(row, expected.data(), layout::row_bytes) == 0;
}

}  // namespace kvdirect::stress
