// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "memory/large_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace kvdirect {

namespace {

// linux/mman.h; younger than some systems' headers.
constexpr int collapse = 25;
// Between two looks at the clock.
constexpr std::ptrdiff_t piece = std::ptrdiff_t{64} << 20;

// The large pages that lie wholly between two addresses.
struct Whole {
  std::byte* first;
  std::byte* last;
  Whole(std::byte* from, std::byte* to) : first(from), last(from) {
    const auto before = (large_page - reinterpret_cast<std::uintptr_t>(from) % large_page) % large_page;
    const auto bytes = static_cast<std::size_t>(to - from);
    if (bytes < before + large_page) return;
    first = from + before;
    last = first + (bytes - before) / large_page * large_page;
  }
};

}  // namespace

bool collapse_pages(std::byte* first, std::byte* last) noexcept {
  return madvise(first, static_cast<std::size_t>(last - first), collapse) == 0;
}

bool make_large(std::byte* first, std::byte* last) noexcept {
  const Whole whole(first, last);
  // A page must have been touched before it can be made part of a large one.
  for (std::byte* page = whole.first; page < whole.last; page += large_page) {
    *static_cast<volatile std::byte*>(page) = std::byte{0};
  }
  return whole.first == whole.last || collapse_pages(whole.first, whole.last);
}

void ask_for_large_pages(std::byte* data, std::size_t bytes, std::chrono::steady_clock::time_point deadline) noexcept {
  auto [first, last] = Whole(data, data + bytes);
  while (first < last && std::chrono::steady_clock::now() < deadline) {
    std::byte* const next = first + std::min(piece, last - first);
    collapse_pages(first, next);
    first = next;
  }
}

}  // namespace kvdirect
