// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/map_checks.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "base/error.h"

namespace kvdirect {

namespace {

constexpr std::uint64_t structure_budget = std::uint64_t{1} << 24;
constexpr std::uint64_t alias_budget = std::uint64_t{1} << 27;  // only for maps of our own

[[noreturn]] void refuse(const std::string& whose, const std::string& component, const std::string& problem) {
  throw Error(Errc::plan, "component '" + component + "' of " + whose + ": " + problem,
              {.operation = "check tensor map"});
}

std::string text(std::uint64_t value) { return std::to_string(value); }

void check_ranges(const std::string& whose, const Component& component, const Axis& axis, Budget& budget) {
  const std::string where = "axis '" + axis.name + "': ";
  if (axis.owned.size() > max_ranges) {
    refuse(whose, component.name, where + text(axis.owned.size()) + " owned ranges, at most " + text(max_ranges));
  }
  std::uint64_t total = 0;
  for (const auto& range : axis.owned) {
    const std::string what =
        where + "owned range (" + text(range.start) + ", " + text(range.length) + ", " + text(range.step) + ") ";
    if (range.length == 0) refuse(whose, component.name, what + "is empty");
    if (range.step == 0) refuse(whose, component.name, what + "has step 0");
    if (range.start >= max_index || (range.length - 1) > (max_index - 1 - range.start) / range.step) {
      refuse(whose, component.name, what + "goes past the largest index");
    }
    total += range.length;
    if (total > axis.extent) break;
  }
  if (total != axis.extent) {
    refuse(whose, component.name,
           where + "the owned ranges hold " + (total > axis.extent ? "more than " : "") +
               text(std::min(total, axis.extent)) + " indices, the extent is " + text(axis.extent));
  }
  const auto ranges = placed(axis);
  // A range always meets itself, so anything beyond one index per index is held twice.
  const auto shared = intersect(ranges, ranges, budget);
  for (const auto& stretch : shared) {
    if (stretch.here == stretch.there && stretch.here_step == stretch.there_step) continue;
    refuse(whose, component.name, where + "index " + text(stretch.global.start) + " is owned twice");
  }
}

// Strides must nest: each axis steps over everything the axes with smaller strides span.
void check_strides(const std::string& whose, const Component& component) {
  std::vector<const Axis*> axes;
  for (const auto& axis : component.axes) {
    if (axis.extent > 1) axes.push_back(&axis);
  }
  std::ranges::sort(axes, {}, [](const Axis* axis) { return axis->stride; });
  std::uint64_t span = component.item_bytes;
  for (const Axis* axis : axes) {
    const std::string where = "axis '" + axis->name + "': ";
    if (axis->stride < span) {
      refuse(whose, component.name,
             where + "cells overlap, the stride is " + text(axis->stride) + " bytes and one index spans " + text(span));
    }
    if (axis->extent - 1 > (max_bytes - span) / axis->stride) {
      refuse(whose, component.name, where + "extent times stride goes past the largest offset");
    }
    span += (axis->extent - 1) * axis->stride;
  }
  if (component.offset > max_bytes - span) refuse(whose, component.name, "the offset goes past the largest offset");
}

void check_component(const std::string& whose, const Component& component, Budget& budget) {
  const auto bad = [&](const std::string& problem) { refuse(whose, component.name, problem); };
  if (component.name.empty()) bad("it has no name");
  if (component.name.size() > max_name) bad("its name has more than " + text(max_name) + " bytes");
  if (component.dtype.size() > max_name) bad("its dtype has more than " + text(max_name) + " bytes");
  if (component.axes.size() > max_axes) bad(text(component.axes.size()) + " axes, at most " + text(max_axes));
  if (component.item_bytes == 0) bad("item_bytes is 0");
  if (component.elements_per_item == 0) bad("elements_per_item is 0");
  if (component.tokens_per_cell == 0) bad("tokens_per_cell is 0");
  const bool blocks = find_axis(component, "block") != nullptr;
  std::set<std::string_view> names;
  for (const auto& axis : component.axes) {
    const std::string where = "axis '" + axis.name + "': ";
    if (axis.name.empty()) bad("an axis has no name");
    if (axis.name.size() > max_name) bad("an axis' name has more than " + text(max_name) + " bytes");
    if (!names.insert(axis.name).second) bad(where + "named twice");
    if (axis.extent == 0) bad(where + "the extent is 0");
    if (axis.extent > max_index) bad(where + "the extent goes past the largest index");
    if (axis.owned.empty()) continue;
    if (blocks && (axis.name == "block" || axis.name == "token")) {
      bad(where + "has owned ranges, but is addressed through a block table");
    }
    check_ranges(whose, component, axis, budget);
  }
  check_strides(whose, component);
}

// A component as a nest of strides, largest first; what is contiguous is folded into the innermost piece.
struct Nest {
  struct Level {
    std::int64_t extent, stride;
  };
  std::vector<Level> levels;
  std::vector<std::int64_t> spans;  // spans[i]: bytes from a base to the end with levels i.. expanded

  explicit Nest(const Component& component) {
    std::int64_t item = component.item_bytes;
    for (const auto& axis : component.axes) {
      if (axis.extent > 1)
        levels.push_back({static_cast<std::int64_t>(axis.extent), static_cast<std::int64_t>(axis.stride)});
    }
    std::ranges::sort(levels, {}, [](const Level& level) { return -level.stride; });
    while (!levels.empty() && levels.back().stride == item) {
      item *= levels.back().extent;
      levels.pop_back();
    }
    spans.assign(levels.size() + 1, item);
    for (std::size_t i = levels.size(); i-- > 0;) spans[i] = spans[i + 1] + (levels[i].extent - 1) * levels[i].stride;
  }
};

std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - (a % b != 0 && a < 0 ? 1 : 0); }

// [a, a + spans) with levels i.. of `x` against [b, ...) with levels j.. of `y`.
bool meets(const Nest& x, std::size_t i, std::int64_t a, const Nest& y, std::size_t j, std::int64_t b, Budget& budget) {
  budget.spend(1);
  if (a + x.spans[i] <= b || b + y.spans[j] <= a) return false;
  const bool x_leaf = i == x.levels.size();
  const bool y_leaf = j == y.levels.size();
  if (x_leaf && y_leaf) return true;
  const std::int64_t x_stride = x_leaf ? 0 : x.levels[i].stride;
  const std::int64_t y_stride = y_leaf ? 0 : y.levels[j].stride;
  if (x_stride < y_stride) return meets(y, j, b, x, i, a, budget);
  // Step x alone, or where both step alike, the difference of their indices.
  const bool together = x_stride == y_stride;
  const std::size_t j_next = together ? j + 1 : j;
  const std::int64_t lowest = together ? 1 - y.levels[j].extent : 0;
  const std::int64_t highest = x.levels[i].extent - 1;
  const std::int64_t from = std::max(lowest, floor_div(b - a - x.spans[i + 1], x_stride) + 1);
  const std::int64_t to = std::min(highest, floor_div(b - a + y.spans[j_next] - 1, x_stride));
  for (std::int64_t k = from; k <= to; ++k) {
    if (meets(x, i + 1, a + k * x_stride, y, j_next, b, budget)) return true;
  }
  return false;
}

}  // namespace

const Axis* find_axis(const Component& component, const std::string& name) noexcept {
  const auto found = std::ranges::find(component.axes, name, &Axis::name);
  return found == component.axes.end() ? nullptr : &*found;
}

std::uint64_t span_bytes(const Component& component) noexcept {
  std::uint64_t span = component.item_bytes;
  for (const auto& axis : component.axes) span += (axis.extent - 1) * (axis.extent > 1 ? axis.stride : 0);
  return span;
}

bool overlap(const Component& a, const Component& b, Budget& budget) {
  if (a.region != b.region) return false;
  return meets(Nest(a), 0, static_cast<std::int64_t>(a.offset), Nest(b), 0, static_cast<std::int64_t>(b.offset),
               budget);
}

void check_structure(const TensorMap& map, const std::string& whose) {
  if (map.components.size() > max_components) {
    throw Error(Errc::plan,
                whose + " has " + text(map.components.size()) + " components, at most " + text(max_components),
                {.operation = "check tensor map"});
  }
  Budget budget(structure_budget);
  std::set<std::string_view> names;
  for (const auto& component : map.components) {
    check_component(whose, component, budget);
    if (!names.insert(component.name).second) refuse(whose, component.name, "the name is used twice");
  }
}

bool tables_alias(const TensorMap& map, const std::string& whose) {
  std::vector<const Component*> sorted;
  for (const auto& component : map.components) sorted.push_back(&component);
  std::ranges::sort(sorted, {}, [](const Component* c) { return std::pair(c->region, c->offset); });
  Budget budget(alias_budget);
  bool aliased = false;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const Component& a = *sorted[i];
    const std::uint64_t end = a.offset + span_bytes(a);
    for (std::size_t j = i + 1; j < sorted.size(); ++j) {
      const Component& b = *sorted[j];
      if (b.region != a.region || b.offset >= end) break;
      const bool apart = a.table != b.table && find_axis(a, "block") != nullptr && find_axis(b, "block") != nullptr;
      if ((apart && aliased) || !overlap(a, b, budget)) continue;
      if (!apart) refuse(whose, b.name, "it overlaps component '" + a.name + "' in region " + text(a.region));
      aliased = true;
    }
  }
  return aliased;
}

}  // namespace kvdirect
