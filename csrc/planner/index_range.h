// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "planner/tensor_map.h"

namespace kvdirect {

// How much work a set of maps may cause. They come from the network: ranges can be small to write down and endless to
// intersect, so everything that loops over them draws from one budget.
class Budget {
 public:
  explicit Budget(std::uint64_t steps) : _left(steps) {}
  // Error(plan) when it is used up.
  void spend(std::uint64_t steps);

 private:
  std::uint64_t _left;
};

// An owned range and the local index of its first element.
struct LocatedRange {
  OwnedRange global;
  std::uint64_t local = 0;
  [[nodiscard]] std::uint64_t last() const noexcept { return global.start + (global.length - 1) * global.step; }
};

// Global indices that two sides both hold: global.length of them, at here, here + here_step, ... on the one side and
// there, there + there_step, ... on the other.
struct IndexOverlap {
  OwnedRange global;
  std::uint64_t here = 0;
  std::uint64_t here_step = 1;
  std::uint64_t there = 0;
  std::uint64_t there_step = 1;
};

// Global indices stay below this, so that sums of a few of them cannot overflow.
inline constexpr std::uint64_t max_index = std::uint64_t{1} << 62;

// The ranges of an axis in ascending order, neighbours that continue each other joined. The axis must have passed
// check_structure (or its own range checks).
[[nodiscard]] std::vector<LocatedRange> placed(const Axis& axis);

// Where two lists of ranges meet, without touching single indices. Both sorted by start. Ascending by global.start
// within one pair of ranges only.
[[nodiscard]] std::vector<IndexOverlap> intersect(std::span<const LocatedRange> here,
                                                  std::span<const LocatedRange> there, Budget& budget);

// The global indices of shared stretches, to be intersected again.
[[nodiscard]] std::vector<LocatedRange> globals(std::span<const IndexOverlap> shared);

[[nodiscard]] std::uint64_t count(std::span<const IndexOverlap> shared) noexcept;

}  // namespace kvdirect
