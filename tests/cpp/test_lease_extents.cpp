// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <malloc.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "message/lease_extents.h"

namespace kvdirect {

namespace {

using Tables = LeaseTable::Tables;

Published published_of(TensorMap map) { return {{}, std::move(map)}; }

std::size_t bytes_in_use() {
  const auto heap = mallinfo2();
  return heap.uordblks + heap.hblkhd;
}

// `layers` rows in each of `blocks` blocks, of 512 bytes.
Component layered(std::uint64_t layers, std::uint64_t blocks) {
  return {.name = "kv",
          .axes = {{"layer", layers, 512 * blocks, {}}, {"block", blocks, 512, {}}, {"element", 512, 1, {}}},
          .dtype = "int8"};
}

struct Chance {
  std::mt19937_64 engine;
  std::uint64_t below(std::uint64_t limit) { return engine() % limit; }
  std::uint64_t between(std::uint64_t first, std::uint64_t last) { return first + below(last - first + 1); }
};

constexpr std::size_t regions = 3;
constexpr std::size_t tables_per_lease = 3;

// Axes in any order, now and then with unused bytes between their steps.
Component any_component(Chance& chance, std::size_t number) {
  Component component{.name = "c" + std::to_string(number),
                      .axes = {{"layer", chance.between(1, 3), 0, {}},
                               {"head", chance.between(1, 2), 0, {}},
                               {"token", chance.between(1, 3), 0, {}}},
                      .dtype = "int8",
                      .item_bytes = static_cast<std::uint32_t>(chance.between(1, 4)),
                      .region = static_cast<std::uint32_t>(chance.below(regions)),
                      .offset = chance.below(300),
                      .table = static_cast<std::uint32_t>(chance.below(tables_per_lease))};
  if (chance.below(5) > 0) component.axes.push_back({"block", chance.between(1, 9), 0, {}});
  std::ranges::shuffle(component.axes, chance.engine);
  std::uint64_t span = component.item_bytes;
  for (Axis& axis : component.axes) {
    axis.stride = span + (chance.below(3) == 0 ? chance.below(9) : 0);
    span += (axis.extent - 1) * axis.stride;
    if (axis.extent > 1 && chance.below(2) == 0) span = axis.extent * axis.stride;
  }
  return component;
}

TensorMap any_map(Chance& chance) {
  TensorMap map;
  for (std::size_t i = chance.between(1, 5); i-- > 0;) map.components.push_back(any_component(chance, i));
  // A second pool in the place of the first, as engines lay them that have several kinds of layers.
  if (chance.below(3) == 0) {
    Component& twin = map.components.emplace_back(map.components.front());
    twin.name = "twin";
    twin.table = static_cast<std::uint32_t>((twin.table + 1) % tables_per_lease);
  }
  return map;
}

using Marks = std::vector<std::vector<bool>>;  // of every byte of every region

// Cell by cell, without a thought for what is contiguous.
void mark(const Component& component, const Tables& tables, std::size_t axis, std::uint64_t offset, Marks& marks) {
  if (axis == component.axes.size()) {
    auto& bytes = marks[component.region];
    if (bytes.size() < offset + component.item_bytes) bytes.resize(offset + component.item_bytes);
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), component.item_bytes, true);
    return;
  }
  const Axis& along = component.axes[axis];
  const auto step = [&](std::uint64_t index) {
    mark(component, tables, axis + 1, offset + index * along.stride, marks);
  };
  if (along.name == "block") {
    for (const std::int64_t id : tables[component.table]) {
      if (id >= 0) step(static_cast<std::uint64_t>(id));
    }
  } else {
    for (std::uint64_t index = 0; index < along.extent; ++index) step(index);
  }
}

std::vector<Extent> extents_of(const Marks& marks) {
  std::vector<Extent> extents;
  for (std::uint32_t region = 0; region < marks.size(); ++region) {
    bool before = false;
    for (std::uint64_t byte = 0; byte < marks[region].size(); before = marks[region][byte++]) {
      if (!marks[region][byte]) continue;
      if (!before) extents.push_back({region, byte, 0});
      ++extents.back().length;
    }
  }
  return extents;
}

bool all_marked(const Marks& marks, const WireRun& run) {
  if (run.region >= marks.size() || run.length == 0) return false;
  const auto& bytes = marks[run.region];
  if (run.offset >= bytes.size() || run.length > bytes.size() - run.offset) return false;
  const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(run.offset);
  return std::all_of(first, first + static_cast<std::ptrdiff_t>(run.length), [](bool marked) { return marked; });
}

// Mostly what an honest reader may ask for, now and then a little more.
WireRun any_run(Chance& chance, const std::vector<Extent>& extents) {
  if (extents.empty() || chance.below(8) == 0) {
    return {static_cast<std::uint32_t>(chance.below(regions + 1)), chance.below(800),
            chance.below(20) == 0 ? std::uint64_t{1} << chance.below(64) : chance.below(60)};
  }
  const Extent& extent = extents[chance.below(extents.size())];
  const std::uint64_t skipped = chance.below(3) == 0 ? chance.below(extent.length) : 0;
  const std::uint64_t length = extent.length - skipped;
  switch (chance.below(8)) {
    case 0: return {extent.region, extent.offset + skipped, length + 1};
    case 1: return {extent.region, extent.offset - std::min<std::uint64_t>(extent.offset, 1), length};
    case 2:
    case 3: return {extent.region, extent.offset + skipped, length};
    default: return {extent.region, extent.offset + skipped, chance.between(1, length)};
  }
}

}  // namespace

TEST(what_a_lease_covers_is_what_its_blocks_hold) {
  Chance chance{std::mt19937_64(20)};
  std::size_t covered = 0, refused = 0;
  for (int round = 0; round < 600; ++round) {
    const Published published = published_of(any_map(chance));
    std::vector<std::uint64_t> blocks(tables_per_lease, 10);  // that every pool of a table has
    for (const Component& component : published.map.components) {
      for (const Axis& axis : component.axes) {
        if (axis.name == "block") blocks[component.table] = std::min(blocks[component.table], axis.extent);
      }
    }
    const auto leases = std::make_shared<LeaseTable>(4U);
    LeaseExtents extents(leases);
    const LeaseRef lease = leases->reserve().value();
    Tables tables(tables_per_lease);
    // A lease that grows is asked in between.
    for (std::uint64_t grant = chance.between(1, 3); grant-- > 0;) {
      Tables added(tables_per_lease);
      LeaseTable::Ranges ranges(tables_per_lease);
      for (std::size_t table = 0; table < tables_per_lease; ++table) {
        for (std::uint64_t i = chance.below(6); i-- > 0;) {
          added[table].push_back(static_cast<std::int64_t>(chance.below(blocks[table] + 1)) - 1);
        }
        tables[table].insert(tables[table].end(), added[table].begin(), added[table].end());
        if (blocks[table] == 0 || chance.below(3) > 0) continue;
        const std::uint64_t first = chance.below(blocks[table]);
        ranges[table].push_back({first, chance.between(first + 1, blocks[table])});
        for (std::uint64_t id = first; id < ranges[table].back().end; ++id) {
          tables[table].push_back(static_cast<std::int64_t>(id));
        }
      }
      leases->grant(lease, added, ranges);
      Marks marks(regions);
      for (const Component& component : published.map.components) mark(component, tables, 0, component.offset, marks);
      const std::vector<Extent> inside = extents_of(marks);
      CHECK(block_extents(published.map, std::vector<BlockTable>(tables.begin(), tables.end())) == inside);
      for (int pull = 0; pull < 30; ++pull) {
        std::vector<WireRun> runs;
        for (std::uint64_t i = chance.between(1, 4); i-- > 0;) runs.push_back(any_run(chance, inside));
        if (chance.below(2) == 0) std::ranges::sort(runs, {}, &WireRun::offset);
        const bool all = std::ranges::all_of(runs, [&](const WireRun& run) { return all_marked(marks, run); });
        CHECK(extents.covers(published, lease, runs) == all);
        ++(all ? covered : refused);
      }
    }
  }
  CHECK(covered > 5000 && refused > 5000);
}

TEST(leases_cost_memory_by_their_blocks_not_by_their_layers) {
  constexpr std::uint64_t blocks = 2048;
  const Published published = published_of({{layered(160, 2 * blocks)}});
  const auto leases = std::make_shared<LeaseTable>(32U);
  LeaseExtents extents(leases);
  Tables tables(1);
  for (std::uint64_t i = 0; i < blocks; ++i) tables.front().push_back(static_cast<std::int64_t>(2 * i));
  std::vector<LeaseRef> granted(20);
  for (LeaseRef& lease : granted) lease = leases->grant_or_reserve(std::nullopt, tables).value();
  const std::size_t before = bytes_in_use();
  for (const LeaseRef lease : granted) {
    const WireRun last{0, 512 * (2 * blocks * 159 + 2 * (blocks - 1)), 512};
    CHECK(extents.covers(published, lease, std::span(&last, 1)));
  }
  // Of each block 100 bytes at most.
  CHECK(bytes_in_use() < before + 100 * blocks * granted.size());
}

TEST(blocks_that_the_map_lacks_are_named) {
  Component other = layered(2, 8);
  other.name = "other";
  other.table = 1;
  other.region = 1;
  const Published published = published_of({{layered(2, 8), other}});
  const auto leases = std::make_shared<LeaseTable>(4U);
  LeaseExtents extents(leases);
  const LeaseRef lease = leases->reserve().value();
  const WireRun run{0, 512, 512};
  const auto covers = [&] { return extents.covers(published, lease, std::span(&run, 1)); };
  CHECK(!covers());
  leases->grant(lease, {{1, 2}});
  CHECK_THROWS_WITH(covers(), Errc::plan, "component 'other': block table 1 is missing, 1 given");
  CHECK_THROWS_WITH(covers(), Errc::plan, "component 'other': block table 1 is missing, 1 given");
  leases->grant(lease, {{}, {3}});
  CHECK(covers());
  leases->grant(lease, {{-1, 4}, {5, -1, 8}});
  CHECK(covers());  // as far as is known
  const WireRun unknown{0, 0, 512};
  for (int again = 0; again < 2; ++again) {
    CHECK_THROWS_WITH(extents.covers(published, lease, std::span(&unknown, 1)), Errc::plan,
                      "component 'other': block table 1 entry 3 is 8, the block axis has 8 blocks");
  }
}

TEST(a_range_costs_the_same_however_many_blocks_it_has) {
  constexpr std::uint64_t blocks = std::uint64_t{1} << 40;
  const Published published = published_of({{layered(1, blocks)}});
  const auto leases = std::make_shared<LeaseTable>(4U);
  LeaseExtents extents(leases);
  const LeaseRef lease = leases->reserve().value();
  leases->grant(lease, {}, {{{1, blocks}}});
  const std::size_t before = bytes_in_use();
  const std::vector<WireRun> inside{{0, 512, 512}, {0, 512 * (blocks - 1), 512}};
  const std::vector<WireRun> outside{{0, 0, 512}};
  for (int again = 0; again < 100; ++again) {
    CHECK(extents.covers(published, lease, inside));
    CHECK(!extents.covers(published, lease, outside));
  }
  CHECK(bytes_in_use() < before + 10'000);
  leases->grant(lease, {}, {{{0, 1}}});
  CHECK(extents.covers(published, lease, outside));
  leases->grant(lease, {}, {{{5, blocks + 1}}});
  const WireRun behind{0, 512 * blocks, 512};
  CHECK_THROWS_WITH(extents.covers(published, lease, std::span(&behind, 1)), Errc::plan,
                    "block table 0 has a range up to " + std::to_string(blocks + 1) + ", the block axis has");
}

TEST(threads_share_what_a_lease_covers) {
  constexpr std::uint64_t blocks = 400;
  const Published published = published_of({{layered(3, blocks)}});
  const auto leases = std::make_shared<LeaseTable>(4U);
  LeaseExtents extents(leases);
  const LeaseRef lease = leases->reserve().value();
  leases->grant(lease, {{0}});
  std::atomic<std::uint64_t> granted{1};
  std::atomic<std::size_t> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&] {
      for (std::uint64_t known = 0; known < blocks;) {
        known = granted.load();
        const WireRun newest{0, 512 * (known - 1), 512};
        if (!extents.covers(published, lease, std::span(&newest, 1))) ++wrong;
        extents.sweep();
      }
    });
  }
  for (std::int64_t id = 1; id < static_cast<std::int64_t>(blocks); ++id) {
    leases->grant(lease, {{id}});
    ++granted;
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

}  // namespace kvdirect
