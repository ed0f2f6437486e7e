// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "planner/plan.h"

namespace kvdirect {

// `length` bytes of a run, from `inside` on.
[[nodiscard]] inline Run part_of(const Run& run, std::uint64_t inside, std::uint64_t length) noexcept {
  return {run.remote_offset + inside, run.local_offset + inside, length, run.remote_region, run.local_region};
}

// Walks a list of runs in order, as far as it is to go, in pieces of whatever size is wanted. `R` has a length and a
// part_of().
template <class R>
class RunCursor {
 public:
  static constexpr std::uint64_t all = ~std::uint64_t{0};

  RunCursor() = default;
  // `bytes`: no more than there are; or to the end, and then nobody may ask how many are left.
  explicit RunCursor(std::span<const R> runs, std::uint64_t bytes = all) noexcept : _runs(runs), _left(bytes) {}

  [[nodiscard]] bool done() const noexcept { return _left == 0 || _runs.empty(); }
  [[nodiscard]] std::uint64_t left() const noexcept { return _left; }
  // From here, but no further than so many bytes.
  [[nodiscard]] RunCursor first(std::uint64_t bytes) const noexcept {
    RunCursor shorter = *this;
    shorter._left = std::min(_left, bytes);
    return shorter;
  }

  // The next piece: at most `most` bytes, all of one run. Only if not done.
  R take(std::uint64_t most = all) noexcept {
    const R& run = _runs.front();
    const std::uint64_t length = std::min(std::min(run.length - _inside, most), _left);
    const R piece = part_of(run, _inside, length);
    _inside += length;
    _left -= length;
    if (_inside == run.length) {
      _runs = _runs.subspan(1);
      _inside = 0;
    }
    return piece;
  }

  // There must be so many.
  void skip(std::uint64_t bytes) noexcept {
    while (bytes > 0) bytes -= take(bytes).length;
  }

 private:
  std::span<const R> _runs;
  std::uint64_t _inside = 0;  // bytes of the first that are behind
  std::uint64_t _left = 0;
};

}  // namespace kvdirect
