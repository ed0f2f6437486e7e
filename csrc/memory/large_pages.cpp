// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "memory/large_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <memory>

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

bool make_large(std::byte* first, std::byte* last) noexcept {
  // A page must have been touched before it can be made part of a large one.
  for (std::byte* page = first; page < last; page += large_page) {
    *static_cast<volatile std::byte*>(page) = std::byte{0};
  }
  return collapse_pages(first, last);
}

void ask_for_large_pages(std::byte* data, std::size_t bytes, std::chrono::steady_clock::time_point deadline) noexcept {
  void* aligned = data;
  if (std::align(large_page, large_page, aligned, bytes) == nullptr) return;
  auto* first = static_cast<std::byte*>(aligned);
  std::byte* const last = first + bytes / large_page * large_page;
  while (first < last && std::chrono::steady_clock::now() < deadline) {
    std::byte* const next = first + std::min(piece, last - first);
    collapse_pages(first, next);
    first = next;
  }
}

}  // namespace kvdirect
