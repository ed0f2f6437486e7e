// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <chrono>

namespace kvdirect {

// A caller's or a peer's seconds as the clock counts them, for sums with now(): what is longer than ten years is as
// good as ten years, and would overflow. Nothing for what is negative, or no number.
[[nodiscard]] constexpr std::chrono::steady_clock::duration bounded(double seconds) noexcept {
  constexpr double longest = 86400.0 * 365 * 10;
  const double kept = seconds > 0 ? std::min(seconds, longest) : 0;
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(kept));
}

}  // namespace kvdirect
