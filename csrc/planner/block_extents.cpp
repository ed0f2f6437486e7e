// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "base/error.h"
#include "planner/map_checks.h"
#include "planner/pattern.h"
#include "planner/plan.h"

namespace kvdirect {

namespace {

constexpr std::uint64_t extent_budget = std::uint64_t{1} << 25;
constexpr std::uint64_t ids_per_mark = 64;

// A component matched with itself, whole.
ShardSource whole(const Component& component) {
  ShardSource share{0, &component, {}};
  for (const auto& axis : component.axes) {
    if (is_global(component, axis))
      share.axes.push_back({&axis, &axis, {IndexOverlap{{0, axis.extent, 1}, 0, 1, 0, 1}}});
  }
  return share;
}

// The same ids below `blocks`, ascending, each once.
std::vector<std::uint64_t> marked(const std::vector<std::uint64_t>& ids, std::uint64_t blocks) {
  std::vector<std::uint64_t> words(blocks / 64 + 1);
  for (const std::uint64_t id : ids) words[id / 64] |= std::uint64_t{1} << (id % 64);
  std::vector<std::uint64_t> result;
  result.reserve(ids.size());
  for (std::uint64_t i = 0; i < words.size(); ++i) {
    for (std::uint64_t word = words[i]; word != 0; word &= word - 1) {
      result.push_back(i * 64 + static_cast<std::uint64_t>(std::countr_zero(word)));
    }
  }
  return result;
}

// The block ids of a table, ascending, each once, holes left out.
std::vector<std::uint64_t> distinct_blocks(const Component& component, std::span<const BlockTable> tables) {
  const auto refuse = [&](const std::string& problem) {
    throw Error(Errc::plan, "component '" + component.name + "': " + problem, {.operation = "block extents"});
  };
  if (component.table >= tables.size()) {
    refuse("block table " + std::to_string(component.table) + " is missing, " + std::to_string(tables.size()) +
           " given");
  }
  const BlockTable table = tables[component.table];
  const std::uint64_t blocks = find_axis(component, "block")->extent;
  std::vector<std::uint64_t> ids;
  ids.reserve(table.size());
  for (std::size_t entry = 0; entry < table.size(); ++entry) {
    if (table[entry] < 0) continue;
    const auto id = static_cast<std::uint64_t>(table[entry]);
    if (id >= blocks) {
      refuse("block table " + std::to_string(component.table) + " entry " + std::to_string(entry) + " is " +
             std::to_string(id) + ", the block axis has " + std::to_string(blocks) + " blocks");
    }
    ids.push_back(id);
  }
  // Of many blocks those that are there are faster marked than sorted.
  if (blocks / ids_per_mark <= ids.size()) return marked(ids, blocks);
  std::ranges::sort(ids);
  ids.erase(std::ranges::unique(ids).begin(), ids.end());
  return ids;
}

bool before(const Extent& a, const Extent& b) { return std::pair(a.region, a.offset) < std::pair(b.region, b.offset); }

// Sorted extents, joined where they touch or overlap.
void join(std::vector<Extent>& extents) {
  if (!std::ranges::is_sorted(extents, before)) std::ranges::sort(extents, before);
  std::size_t kept = 0;
  for (std::size_t i = 1; i < extents.size(); ++i) {
    Extent& back = extents[kept];
    const Extent& next = extents[i];
    if (back.region == next.region && next.offset <= back.offset + back.length) {
      back.length = std::max(back.offset + back.length, next.offset + next.length) - back.offset;
    } else {
      extents[++kept] = next;
    }
  }
  if (!extents.empty()) extents.resize(kept + 1);
}

// Components that one list of block ids moves alike.
struct Pool {
  std::uint32_t region, table;
  std::uint64_t stride, blocks;
  const Component* first;
  std::vector<RelativeRun> relative_runs;
};

}  // namespace

std::vector<Extent> block_extents(const TensorMap& map, std::span<const BlockTable> tables) {
  check_structure(map, "the tensor map");
  Budget budget(extent_budget);
  std::vector<Pool> pools;
  std::vector<Extent> extents;
  for (const auto& component : map.components) {
    const Pattern pattern(component, whole(component));
    const Axis* block = find_axis(component, "block");
    const Axis* token = find_axis(component, "token");
    if (block == nullptr) {
      std::vector<RelativeRun> relative_runs;
      pattern.expand(0, 1, relative_runs, budget);
      for (const RelativeRun& relative : relative_runs)
        extents.push_back({component.region, relative.local, relative.length});
      continue;
    }
    auto pool = std::ranges::find_if(pools, [&](const Pool& p) {
      return p.region == component.region && p.table == component.table && p.stride == block->stride &&
             p.blocks == block->extent;
    });
    if (pool == pools.end()) {
      pools.push_back({component.region, component.table, block->stride, block->extent, &component, {}});
      pool = pools.end() - 1;
    }
    pattern.expand(0, token == nullptr ? 1 : token->extent, pool->relative_runs, budget);
  }
  for (auto& pool : pools) {
    coalesce(pool.relative_runs);
    const auto ids = distinct_blocks(*pool.first, tables);
    budget.spend(ids.size() * pool.relative_runs.size());
    for (const RelativeRun& relative : pool.relative_runs) {
      for (const std::uint64_t id : ids)
        extents.push_back({pool.region, relative.local + id * pool.stride, relative.length});
    }
    join(extents);
  }
  join(extents);
  return extents;
}

}  // namespace kvdirect
