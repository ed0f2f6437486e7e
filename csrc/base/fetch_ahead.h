// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <cstddef>

namespace kvdirect {

// Has the beginning of a block that is soon copied, or copied to, on its way to the caches: processors look ahead
// within a page only. Any address will do.
inline void fetch_ahead(const void* block, std::size_t bytes) noexcept {
  constexpr std::size_t most = 512;
  constexpr std::size_t line = 64;
  const auto* begin = static_cast<const char*>(block);
  for (std::size_t at = 0; at < std::min(bytes, most); at += line) __builtin_prefetch(begin + at);
}

}  // namespace kvdirect
