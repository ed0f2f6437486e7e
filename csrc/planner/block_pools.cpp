// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/block_pools.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "planner/map_checks.h"
#include "planner/pattern.h"

namespace kvdirect {

namespace {

constexpr std::uint64_t piece_budget = std::uint64_t{1} << 25;
constexpr std::uint64_t extent_budget = std::uint64_t{1} << 25;
constexpr std::uint64_t pool_cost = sizeof(BlockPool) / sizeof(Stretch);

// A component matched with itself, whole.
ShardSource whole(const Component& component) {
  ShardSource share{0, &component, {}};
  for (const auto& axis : component.axes) {
    if (is_global(component, axis))
      share.axes.push_back({&axis, &axis, {IndexOverlap{{0, axis.extent, 1}, 0, 1, 0, 1}}});
  }
  return share;
}

// Joins stretches, sorted by where they begin, that touch or overlap.
void join(std::vector<Stretch>& stretches) {
  std::size_t kept = 0;
  for (const Stretch& next : stretches) {
    if (kept > 0 && next.begin <= stretches[kept - 1].end) {
      stretches[kept - 1].end = std::max(stretches[kept - 1].end, next.end);
    } else {
      stretches[kept++] = next;
    }
  }
  stretches.resize(kept);
}

// What a block holds, cut where a stride does not reach: layers that lie further apart than blocks are a pool each.
void cut(const BlockPool& like, std::vector<RelativeRun>& runs, std::vector<BlockPool>& pools, Budget& budget) {
  std::ranges::sort(runs, {}, &RelativeRun::remote);
  const std::size_t first = pools.size();
  for (const RelativeRun& run : runs) {
    if (pools.size() == first || run.remote + run.length - pools.back().start > like.stride) {
      budget.spend(pool_cost);
      pools.push_back(like);
      pools.back().start = run.remote;
    }
    const std::uint64_t begin = run.remote - pools.back().start;
    pools.back().pieces.push_back({begin, begin + run.length});
  }
  for (std::size_t i = first; i < pools.size(); ++i) join(pools[i].pieces);
}

}  // namespace

std::vector<BlockPool> block_pools(const TensorMap& map) {
  check_structure(map, "the tensor map");
  Budget budget(piece_budget);
  std::vector<std::pair<BlockPool, std::vector<RelativeRun>>> groups;
  for (const auto& component : map.components) {
    // Where there is one block at most, nothing is a stride away.
    BlockPool like{component.region, std::nullopt, max_bytes, 1, component.name};
    std::uint64_t cells = 1;
    if (const Axis* block = find_axis(component, "block")) {
      like.table = component.table;
      like.blocks = block->extent;
      if (block->extent > 1) like.stride = block->stride;
      if (const Axis* token = find_axis(component, "token")) cells = token->extent;
    }
    auto group = std::ranges::find_if(groups, [&](const auto& known) {
      const BlockPool& pool = known.first;
      return pool.region == like.region && pool.table == like.table && pool.stride == like.stride &&
             pool.blocks == like.blocks;
    });
    if (group == groups.end()) group = groups.insert(group, {like, {}});
    Pattern(component, whole(component)).expand(0, cells, group->second, budget);
  }
  std::vector<BlockPool> pools;
  for (auto& [like, runs] : groups) cut(like, runs, pools, budget);
  std::ranges::stable_sort(pools, {}, [](const BlockPool& pool) { return std::pair(pool.region, pool.start); });
  const BlockPool* before = nullptr;
  for (BlockPool& pool : pools) {
    pool.reach = pool.start + (pool.blocks - 1) * pool.stride + pool.pieces.back().end;
    if (before != nullptr && before->region == pool.region) pool.reach = std::max(pool.reach, before->reach);
    before = &pool;
  }
  return pools;
}

void BlockIds::add(std::span<const BlockPool> pools, std::span<const BlockTable> added,
                   std::span<const std::vector<Stretch>> ranges) {
  _ids.resize(std::max({_ids.size(), added.size(), ranges.size()}));
  _entries.resize(_ids.size());
  _ranges.resize(_ids.size());
  for (std::size_t table = 0; table < _ids.size(); ++table) {
    auto& ids = _ids[table];
    const auto known = static_cast<std::ptrdiff_t>(ids.size());
    if (table < ranges.size()) ids.insert(ids.end(), ranges[table].begin(), ranges[table].end());
    for (const std::int64_t id : table < added.size() ? added[table] : BlockTable{}) {
      if (id >= 0) ids.push_back({static_cast<std::uint64_t>(id), static_cast<std::uint64_t>(id) + 1});
    }
    std::ranges::sort(ids.begin() + known, ids.end(), {}, &Stretch::begin);
    std::ranges::inplace_merge(ids, ids.begin() + known, {}, &Stretch::begin);
    join(ids);
  }
  for (const BlockPool& pool : pools) {
    if (pool.table) check(pool, added);
  }
  for (std::size_t table = 0; table < added.size(); ++table) _entries[table] += added[table].size();
  for (std::size_t table = 0; table < ranges.size(); ++table) _ranges[table] += ranges[table].size();
}

void BlockIds::check(const BlockPool& pool, std::span<const BlockTable> added) const {
  const std::uint32_t table = *pool.table;
  const auto refuse = [&](const std::string& problem) {
    throw Error(Errc::plan, "component '" + pool.component + "': block table " + std::to_string(table) + problem,
                {.operation = "block extents"});
  };
  if (table >= _ids.size()) refuse(" is missing, " + std::to_string(_ids.size()) + " given");
  if (_ids[table].empty() || _ids[table].back().end <= pool.blocks) return;
  const std::string has = ", the block axis has " + std::to_string(pool.blocks) + " blocks";
  const auto ids = table < added.size() ? added[table] : BlockTable{};
  const auto bad = std::ranges::find_if(
      ids, [&](std::int64_t id) { return id >= 0 && static_cast<std::uint64_t>(id) >= pool.blocks; });
  if (bad == ids.end()) refuse(" has a range up to " + std::to_string(_ids[table].back().end) + has);
  refuse(" entry " + std::to_string(_entries[table] + static_cast<std::size_t>(bad - ids.begin())) + " is " +
         std::to_string(*bad) + has);
}

std::span<const Stretch> BlockIds::of(const BlockPool& pool) const noexcept {
  static constexpr Stretch only{0, 1};
  return pool.table ? std::span(_ids[*pool.table]) : std::span(&only, 1);
}

std::vector<Extent> block_extents(const TensorMap& map, std::span<const BlockTable> tables) {
  const auto pools = block_pools(map);
  BlockIds ids;
  ids.add(pools, tables);
  Budget budget(extent_budget);
  std::vector<Extent> extents;
  for (auto pool = pools.begin(); pool != pools.end();) {
    const std::uint32_t region = pool->region;
    std::vector<Stretch> bytes;
    for (; pool != pools.end() && pool->region == region; ++pool) {
      for (const Stretch& blocks : ids.of(*pool)) {
        budget.spend((blocks.end - blocks.begin) * pool->pieces.size());
        for (std::uint64_t id = blocks.begin; id < blocks.end; ++id) {
          const std::uint64_t start = pool->start + id * pool->stride;
          for (const Stretch& piece : pool->pieces) bytes.push_back({start + piece.begin, start + piece.end});
        }
      }
    }
    std::ranges::sort(bytes, {}, &Stretch::begin);
    join(bytes);
    for (const Stretch& stretch : bytes) extents.push_back({region, stretch.begin, stretch.end - stretch.begin});
  }
  return extents;
}

}  // namespace kvdirect
