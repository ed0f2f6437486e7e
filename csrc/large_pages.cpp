// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "large_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace kvdirect {

namespace {

// linux/mman.h; younger than some systems' headers.
constexpr int collapse = 25;
// Between two looks at the clock.
constexpr std::ptrdiff_t piece = std::ptrdiff_t{64} << 20;

}  // namespace

bool collapse_pages(std::byte* first, std::byte* last) noexcept {
  return madvise(first, static_cast<std::size_t>(last - first), collapse) == 0;
}

void ask_for_large_pages(std::byte* data, std::size_t bytes, std::chrono::steady_clock::time_point deadline) noexcept {
  const auto before = (large_page - reinterpret_cast<std::uintptr_t>(data) % large_page) % large_page;
  if (bytes < before + large_page) return;
  std::byte* first = data + before;
  std::byte* const last = first + (bytes - before) / large_page * large_page;
  while (first < last && std::chrono::steady_clock::now() < deadline) {
    std::byte* const next = first + std::min(piece, last - first);
    collapse_pages(first, next);
    first = next;
  }
}

}  // namespace kvdirect
