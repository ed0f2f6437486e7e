// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/index_range.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"

namespace kvdirect {

namespace {

__extension__ using Wide = __int128;

// x with a * x == 1 (mod m), for coprime a and m.
Wide inverse(Wide a, Wide m) {
  Wide r0 = m, r1 = a % m, t0 = 0, t1 = 1;
  while (r1 != 0) {
    const Wide q = r0 / r1;
    r0 = std::exchange(r1, r0 - q * r1);
    t0 = std::exchange(t1, t0 - q * t1);
  }
  return ((t0 % m) + m) % m;
}

std::optional<IndexOverlap> meet(const LocatedRange& here, const LocatedRange& there) {
  const auto& a = here.global;
  const auto& b = there.global;
  const std::uint64_t low = std::max(a.start, b.start);
  const std::uint64_t high = std::min(here.last(), there.last());
  if (low > high) return std::nullopt;

  const Wide common = std::gcd(a.step, b.step);
  const Wide gap = static_cast<Wide>(b.start) - static_cast<Wide>(a.start);
  if (gap % common != 0) return std::nullopt;
  const Wide a_step = a.step, b_step = b.step;
  const Wide modulus = b_step / common;
  // The first i >= 0 with a.start + i * a.step on b's grid (which may still lie before b.start).
  Wide i = 0;
  if (modulus > 1) {
    i = (((gap / common) % modulus + modulus) % modulus) * inverse(a_step / common, modulus) % modulus;
  }
  const Wide step = a_step * modulus;
  Wide first = static_cast<Wide>(a.start) + i * a_step;
  if (first < low) first += (static_cast<Wide>(low) - first + step - 1) / step * step;
  if (first > high) return std::nullopt;

  const Wide length = (static_cast<Wide>(high) - first) / step + 1;
  IndexOverlap shared;
  shared.global.start = static_cast<std::uint64_t>(first);
  shared.global.length = static_cast<std::uint64_t>(length);
  shared.here = here.local + static_cast<std::uint64_t>((first - a.start) / a_step);
  shared.there = there.local + static_cast<std::uint64_t>((first - b.start) / b_step);
  if (length > 1) {  // a single index has no step, and the common one may not fit
    shared.global.step = static_cast<std::uint64_t>(step);
    shared.here_step = static_cast<std::uint64_t>(step / a_step);
    shared.there_step = static_cast<std::uint64_t>(step / b_step);
  }
  return shared;
}

}  // namespace

void Budget::spend(std::uint64_t steps) {
  if (steps > _left) {
    throw Error(Errc::plan, "the maps are too fragmented to be matched",
                {.operation = "plan", .hint = "Describe axes with fewer, longer owned ranges."});
  }
  _left -= steps;
}

std::vector<LocatedRange> placed(const Axis& axis) {
  if (axis.owned.empty()) return {LocatedRange{{0, axis.extent, 1}, 0}};
  std::vector<LocatedRange> ranges;
  ranges.reserve(axis.owned.size());
  std::uint64_t local = 0;
  for (const auto& owned : axis.owned) {
    const OwnedRange range{owned.start, owned.length, owned.length == 1 ? 1 : owned.step};
    if (!ranges.empty()) {
      auto& back = ranges.back().global;
      // A single index takes the step that leads to its neighbour.
      const std::uint64_t step = back.length > 1 ? back.step : range.start - back.start;
      const bool follows = range.start > back.start && ranges.back().last() + step == range.start;
      if (follows && (range.length == 1 || range.step == step)) {
        back = {back.start, back.length + range.length, step};
        local += range.length;
        continue;
      }
    }
    ranges.push_back({range, local});
    local += range.length;
  }
  std::ranges::sort(ranges, {}, [](const LocatedRange& range) { return range.global.start; });
  return ranges;
}

std::vector<IndexOverlap> intersect(std::span<const LocatedRange> here, std::span<const LocatedRange> there,
                                    Budget& budget) {
  std::vector<IndexOverlap> found;
  std::vector<const LocatedRange*> here_active, there_active;
  std::size_t i = 0, j = 0;
  const auto pair = [&](const LocatedRange& a, const LocatedRange& b) {
    if (auto shared = meet(a, b)) found.push_back(*shared);
  };
  while (i < here.size() || j < there.size()) {
    const bool take_here = j == there.size() || (i < here.size() && here[i].global.start <= there[j].global.start);
    const LocatedRange& next = take_here ? here[i++] : there[j++];
    auto& others = take_here ? there_active : here_active;
    // What ended before it meets nothing any more.
    std::erase_if(others, [&next](const LocatedRange* range) { return range->last() < next.global.start; });
    budget.spend(1 + others.size());
    for (const LocatedRange* other : others) take_here ? pair(next, *other) : pair(*other, next);
    (take_here ? here_active : there_active).push_back(&next);
  }
  return found;
}

std::vector<LocatedRange> globals(std::span<const IndexOverlap> shared) {
  std::vector<LocatedRange> ranges;
  ranges.reserve(shared.size());
  for (const auto& stretch : shared) ranges.push_back({stretch.global, 0});
  std::ranges::sort(ranges, {}, [](const LocatedRange& range) { return range.global.start; });
  return ranges;
}

std::uint64_t count(std::span<const IndexOverlap> shared) noexcept {
  std::uint64_t total = 0;
  for (const auto& stretch : shared) total += stretch.global.length;
  return total;
}

}  // namespace kvdirect
