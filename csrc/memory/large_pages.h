// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstddef>

namespace kvdirect {

inline constexpr std::size_t large_page = std::size_t{2} << 20;

// Puts what is in use between these addresses, both multiples of large_page, on pages of 2 MiB, which needs no
// privilege. True if all of it is. (madvise(2), MADV_COLLAPSE: Linux 6.1)
bool collapse_pages(std::byte* first, std::byte* last) noexcept;

// The same for memory that nobody uses yet, which it touches.
bool make_large(std::byte* first, std::byte* last) noexcept;

// The same for a caller's memory: as much of it as whole pages fit in and the time allows, a memory that was told to
// have none (MADV_NOHUGEPAGE) excepted. Contents stay; others may use them meanwhile.
void ask_for_large_pages(std::byte* data, std::size_t bytes, std::chrono::steady_clock::time_point deadline) noexcept;

}  // namespace kvdirect
