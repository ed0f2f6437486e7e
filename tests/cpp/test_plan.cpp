// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <numeric>

#include "check.h"
#include "plan_shapes.h"

using namespace kvdirect::plan_shapes;

TEST(plan_substitutes_block_ids_in_remote_order) {
  const Plan plan = plan_of(map_of({}), {map_of({})});
  CHECK(runs_of(plan, {5, 2, 0}, {1, 3, 7}, 0, 12) == Runs{run(0, 896, 128), run(256, 384, 128), run(640, 128, 128)});
  CHECK(runs_of(plan, {}, {}, 0, 0).empty());
}

TEST(plan_merges_neighbouring_blocks) {
  const Plan plan = plan_of(map_of({}), {map_of({})});
  CHECK(runs_of(plan, {4, 2, 3}, {6, 4, 5}, 0, 12) == Runs{run(256, 512, 384)});
  // Neighbours on one side only.
  CHECK(runs_of(plan, {2, 3}, {5, 4}, 0, 8) == Runs{run(256, 640, 128), run(384, 512, 128)});
}

TEST(plan_merges_components_and_layers) {
  const Shape shape{.layers = 3, .blocks_outside = true};
  const TensorMap map{{component(shape, "k", 0, 2), component(shape, "v", 128, 2)}};
  const Plan plan = plan_of(map, {map});
  CHECK(runs_of(plan, {4}, {1}, 0, 4) == Runs{run(4 * 768, 768, 768)});
  // Blocks inside layers: one run a layer, and the order is still ascending.
  const Shape inside{.layers = 3};
  const TensorMap other{{component(inside, "k", 0, 2), component(inside, "v", 128, 2)}};
  const Plan layered = plan_of(map, {other});
  CHECK(runs_of(layered, {4, 0}, {1, 6}, 0, 8) == Runs{run(0, 4608, 256), run(1024, 768, 256), run(2048, 4864, 256),
                                                       run(3072, 1024, 256), run(4096, 5120, 256),
                                                       run(5120, 1280, 256)});
}

TEST(plan_cuts_partial_blocks) {
  const Plan plan = plan_of(map_of({.tokens_outside = true}), {map_of({.tokens_outside = true})});
  CHECK(runs_of(plan, {2, 3}, {4, 5}, 1, 7) == Runs{run(288, 544, 192)});
  CHECK(runs_of(plan, {2}, {4}, 1, 3) == Runs{run(288, 544, 64)});
  const Plan heads = plan_of(map_of({}), {map_of({})});
  CHECK(runs_of(heads, {2, 3}, {4, 0}, 2, 5) ==
        Runs{run(288, 544, 32), run(352, 608, 32), run(384, 0, 16), run(448, 64, 16)});
}

TEST(plan_bridges_block_sizes) {
  const TensorMap small = map_of({.blocks = 8, .tokens = 4, .tokens_outside = true});
  const TensorMap large = map_of({.blocks = 4, .tokens = 6, .tokens_outside = true});
  const Plan plan = plan_of(small, {large});
  // Remote block 1 holds positions 0..5, block 3 holds 6..11.
  CHECK(runs_of(plan, {1, 3}, {0, 5, 2}, 0, 12) ==
        Runs{run(192, 0, 128), run(320, 640, 64), run(576, 704, 64), run(640, 256, 128)});
  CHECK(runs_of(plan, {1, 3}, {0, 5, 2}, 5, 7) == Runs{run(352, 672, 32), run(576, 704, 32)});
}

TEST(plan_splits_between_shards) {
  const TensorMap local = map_of({.heads = 4});
  const TensorMap low = map_of({.heads = 3, .own_heads = {{0, 3, 1}}});
  const TensorMap high = map_of({.heads = 2, .own_heads = {{3, 1, 1}, {9, 1, 1}}});
  const Plan plan = plan_of(local, {high, low});
  CHECK(plan.shards() == 2);
  CHECK(runs_of(plan, {1}, {2}, 0, 4, 0) == Runs{run(128, 704, 64)});
  CHECK(runs_of(plan, {1}, {2}, 0, 4, 1) == Runs{run(192, 512, 192)});
  CHECK_THROWS_WITH(runs_of(plan, {1}, {2}, 0, 4, 2), Errc::plan, "no shard 2");
}

TEST(plan_follows_steps) {
  const Plan plan = plan_of(rows(12), {rows(6, {{1, 6, 2}}), rows(2, {{0, 2, 6}}), rows(4, {{2, 2, 2}, {8, 2, 2}})});
  CHECK(runs_of(plan, {}, {}, 0, 0, 0).size() == 6);
  CHECK(runs_of(plan, {}, {}, 0, 0, 0)[2] == run(2, 5, 1));
  CHECK(runs_of(plan, {}, {}, 0, 0, 1) == Runs{run(0, 0, 1), run(1, 6, 1)});
  CHECK(runs_of(plan, {}, {}, 0, 0, 2)[3] == run(3, 10, 1));
  // Steps 3 and 5 meet every 15 indices, and nowhere that starts do.
  const Plan meeting = plan_of(rows(2, {{18, 2, 15}}), {rows(40, {{0, 40, 3}})});
  CHECK(runs_of(meeting, {}, {}, 0, 0) == Runs{run(6, 0, 1), run(11, 1, 1)});
}

TEST(plan_does_not_walk_huge_axes) {
  const std::uint64_t huge = std::uint64_t{1} << 50;
  const Plan plan = plan_of(rows(huge, {{huge, huge, 1}}), {rows(3 * huge)});
  CHECK(runs_of(plan, {}, {}, 0, 0) == Runs{run(huge, 0, huge)});
}

TEST(plan_names_what_is_missing) {
  const TensorMap local = map_of({.layers = 2, .heads = 4});
  const TensorMap part = map_of({.layers = 2, .heads = 2, .own_heads = {{0, 1, 1}, {3, 1, 1}}});
  CHECK_THROWS_WITH(plan_of(local, {part}), Errc::plan, "component 'kv': head 1..2 is held by none of the 1 shards");
  const TensorMap corner = map_of({.layers = 1, .heads = 2, .own_heads = {{1, 2, 1}}, .own_layers = {{1, 1, 1}}});
  CHECK_THROWS_WITH(plan_of(local, {part, corner}), Errc::plan, "is held only in part by the 2 shards");
  CHECK_THROWS_WITH(plan_of(local, {}), Errc::mismatch, "component 'kv'");
  const Plan whole = plan_of(local, {part, map_of({.layers = 2, .heads = 2, .own_heads = {{1, 2, 1}}})});
  CHECK(whole.shards() == 2);
}

TEST(plan_names_what_is_double) {
  const TensorMap local = map_of({.heads = 4});
  const TensorMap low = map_of({.heads = 3, .own_heads = {{0, 3, 1}}});
  const TensorMap high = map_of({.heads = 2, .own_heads = {{2, 2, 1}}});
  CHECK_THROWS_WITH(plan_of(local, {low, high}), Errc::plan, "shards 0 and 1 both hold layer 0, head 2");
  // One row twice and one never: the sizes alone would add up.
  CHECK_THROWS_WITH(plan_of(rows(4), {rows(3), rows(1, {{2, 1, 1}})}), Errc::plan, "both hold row 2");
  CHECK_THROWS_WITH(plan_of(rows(4), {rows(4), rows(4)}), Errc::plan,
                    "component 'w': shards 0 and 1 both hold row 0..3");
}

TEST(plan_spreads_readers_over_replicas) {
  const std::vector<TensorMap> shards{rows(4, {}, 1), rows(4, {}, 1), rows(4, {}, 1)};
  for (std::uint64_t reader = 0; reader < 6; ++reader) {
    const Plan plan(rows(4), shards, reader);
    for (std::size_t shard = 0; shard < 3; ++shard) {
      CHECK(runs_of(plan, {}, {}, 0, 0, shard).size() == (reader % 3 == shard ? 1 : 0));
    }
  }
  // The same group, and other rows: no replicas.
  const Plan both = plan_of(rows(4), {rows(2, {{0, 2, 1}}, 1), rows(2, {{2, 2, 1}}, 1)});
  CHECK(runs_of(both, {}, {}, 0, 0, 0).size() == 1 && runs_of(both, {}, {}, 0, 0, 1).size() == 1);
  CHECK_THROWS_WITH(plan_of(rows(4), {rows(4, {}, 1), rows(3, {}, 1)}), Errc::plan, "both hold row 0..2");
}

TEST(plan_refuses_other_descriptions) {
  const auto with = [](auto change) {
    TensorMap map = map_of({});
    change(map.components[0]);
    return map;
  };
  const TensorMap local = map_of({});
  CHECK_THROWS_WITH(plan_of(local, {with([](Component& c) { c.dtype = "float8"; })}), Errc::mismatch,
                    "component 'kv': dtype is 'int8' here and 'float8' at the peer");
  CHECK_THROWS_WITH(plan_of(local, {with([](Component& c) { c.elements_per_item = 2; })}), Errc::mismatch,
                    "elements_per_item is 1 here and 2 at the peer");
  CHECK_THROWS_WITH(plan_of(local, {with([](Component& c) { c.tokens_per_cell = 4; })}), Errc::mismatch,
                    "tokens_per_cell is 1 here and 4");
  CHECK_THROWS_WITH(plan_of(local, {with([](Component& c) { c.axes[4] = {"element", 8, 2, {}}, c.item_bytes = 2; })}),
                    Errc::mismatch, "item_bytes is 1 here and 2");
  CHECK_THROWS_WITH(plan_of(local, {with([](Component& c) { c.axes[0].name = "stage"; })}), Errc::mismatch,
                    "'block, element, head, layer, token' here and 'block, element, head, stage, token'");
  CHECK_THROWS_WITH(plan_of(local, {with([](Component& c) { c.name = "k"; })}), Errc::mismatch, "component 'kv'");
  // Where it lives does not matter, nor in which order the axes are named.
  const Plan plan = plan_of(local, {with([](Component& c) {
                              c.memory = kvdirect::MemoryKind::cuda;
                              std::ranges::reverse(c.axes);
                            })});
  CHECK(runs_of(plan, {1}, {1}, 0, 4).size() == 1);
}

TEST(plan_does_not_trust_tables) {
  const Plan plan = plan_of(map_of({.blocks = 4}), {map_of({.blocks = 6})});
  CHECK_THROWS_WITH(runs_of(plan, {0, 6}, {0, 1}, 0, 8), Errc::plan,
                    "remote block table 0 entry 1 is 6, the block axis has 6 blocks");
  CHECK_THROWS_WITH(runs_of(plan, {0, 5}, {0, 4}, 0, 8), Errc::plan, "local block table 0 entry 1 is 4");
  CHECK_THROWS_WITH(runs_of(plan, {0}, {0, 1}, 0, 5), Errc::plan,
                    "remote block table 0 has 1 entries, positions below 5 need 2");
  CHECK_THROWS_WITH(runs_of(plan, {0, 1}, {0}, 0, 5), Errc::plan, "local block table 0 has 1 entries");
  CHECK_THROWS_WITH(runs_of(plan, {0, 1}, {3, 3}, 0, 8), Errc::plan, "names block 3 twice");
  CHECK_THROWS(runs_of(plan, {0}, {0}, 0, ~std::uint64_t{0}), Errc::plan);
  CHECK_THROWS(runs_of(plan, {0}, {0}, 3, 2), Errc::plan);
  CHECK_THROWS_WITH(plan.runs(0, Selection{{}, {}, 0, 4}), Errc::plan, "remote block table 0 is missing");
  // Reading one remote block twice is fine, and what is not selected is not looked at.
  CHECK(runs_of(plan, {99, 1, 1, 99}, {99, 0, 2, 99}, 4, 12) == Runs{run(128, 0, 128), run(128, 256, 128)});
}

TEST(plan_leaves_holes_alone) {
  const Plan plan = plan_of(map_of({}), {map_of({})});
  CHECK(runs_of(plan, {-1, 2, 3}, {-1, -1, 1}, 0, 12) == Runs{run(384, 128, 128)});
  CHECK(runs_of(plan, {-1, 2}, {-5, -1}, 0, 8).empty());
  CHECK_THROWS_WITH(runs_of(plan, {1, -1}, {1, 2}, 0, 8), Errc::plan, "remote block table 0 entry 1 is a hole");
}

TEST(plan_leaves_out_whole_tables) {
  TensorMap map{{component({}, "a"), component({}, "b")}};
  map.components[1].table = 1;
  map.components[1].region = 1;
  const Plan plan = plan_of(map, {map});
  const Ids ids{1, 2}, none;
  const Runs both = plan.runs(0, Selection{{ids, ids}, {ids, ids}, 0, 8});
  for (const bool second : {false, true}) {
    std::vector<BlockTable> some{ids, ids};
    some[second ? 0 : 1] = none;
    const Selection selection{some, some, 0, 8, {second, !second}};
    const Runs one = plan.runs(0, selection);
    CHECK(one.size() == 1 && one[0].local_region == (second ? 1 : 0));
    CHECK(std::ranges::find(both, one[0]) != both.end());
    const auto groups = plan.groups(0, selection);
    CHECK(groups.size() == 1 && groups[0].pattern.begin()->local_region == one[0].local_region);
  }
  CHECK(plan.runs(0, Selection{{none, none}, {none, none}, 0, 8, {true, true}}).empty());
  CHECK_THROWS_WITH(plan.runs(0, Selection{{none, ids}, {ids, ids}, 0, 8, {false, true}}), Errc::plan,
                    "remote block table 0 has 0 entries");
}

TEST(plan_keeps_two_tables_of_one_pool_apart) {
  TensorMap map{{component({}, "a"), component({}, "b")}};
  map.components[1].table = 1;
  const Plan plan = plan_of(map, {map});
  const Ids one{1, 2}, two{3}, remote{4, 5};
  CHECK(plan.runs(0, Selection{{remote, remote}, {one, two}, 0, 4}).size() == 2);
  CHECK_THROWS_WITH(plan.runs(0, Selection{{remote, remote}, {one, one}, 0, 4}), Errc::plan, "written twice");
}

TEST(plan_carries_cells_of_several_tokens_whole) {
  TensorMap map = map_of({.tokens = 2, .tokens_outside = true});
  map.components[0].tokens_per_cell = 4;  // 8 positions in a block
  const Plan plan = plan_of(map, {map});
  CHECK(runs_of(plan, {1, 3}, {0, 5}, 0, 9) == Runs{run(64, 0, 64), run(192, 320, 32)});
  CHECK(runs_of(plan, {1}, {0}, 3, 5) == Runs{run(64, 0, 64)});
  CHECK(runs_of(plan, {1}, {0}, 4, 5) == Runs{run(96, 32, 32)});
}

TEST(plan_without_tokens_counts_table_entries) {
  const TensorMap map{{{.name = "state", .axes = {{"block", 8, 64, {}}}, .dtype = "opaque", .item_bytes = 64}}};
  const Plan plan = plan_of(map, {map});
  CHECK(runs_of(plan, {4, 5, 6}, {1, 2, 0}, 1, 3) == Runs{run(320, 128, 64), run(384, 0, 64)});
}

TEST(plan_orders_many_blocks) {
  // Enough ids for the radix sort, in an order that is neither ascending nor descending.
  const std::uint64_t blocks = 5000;
  const Plan plan = plan_of(map_of({.layers = 2, .blocks = blocks}), {map_of({.layers = 2, .blocks = blocks})});
  Ids remote, local;
  for (std::uint64_t i = 0; i < blocks / 2; ++i) {
    remote.push_back(static_cast<std::int64_t>(i * 1237 % (blocks / 2) * 2));
    local.push_back(static_cast<std::int64_t>(i * 2));
  }
  const Runs runs = runs_of(plan, remote, local, 1, blocks / 2 * 4 - 1);
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    total += runs[i].length;
    CHECK(i == 0 || runs[i - 1].remote_offset + runs[i - 1].length <= runs[i].remote_offset);
  }
  CHECK(total == 2 * 2 * 16 * (blocks / 2 * 4 - 2));
}

TEST(plan_refuses_endless_fragments) {
  // Every byte on its own, 2^30 of them: a peer may not make us spell that out.
  const std::uint64_t side = std::uint64_t{1} << 15;
  const auto matrix = [&](std::uint64_t row_stride, std::uint64_t column_stride) {
    return TensorMap{
        {{.name = "w", .axes = {{"row", side, row_stride, {}}, {"column", side, column_stride, {}}}, .dtype = "int8"}}};
  };
  CHECK_THROWS_WITH(plan_of(matrix(side, 1), {matrix(1, side)}), Errc::plan, "too fragmented");
  CHECK(plan_of(matrix(side, 1), {matrix(side, 1)}).shards() == 1);
}

TEST(plan_says_when_it_is_slow) {
  const auto says = [](const Plan& plan, const char* what) { return plan.summary().find(what) != std::string::npos; };
  const Plan other_order = plan_of(map_of({}), {map_of({.tokens_outside = true})});
  CHECK(says(other_order, "8 runs of 16 bytes per 4 positions (small runs: ") && other_order.permutes(0));
  CHECK(says(other_order, "stretches of 128 bytes and put them in order here"));
  // A half of each token's heads: nothing lies together.
  const Plan half = plan_of(map_of({.heads = 1, .own_heads = {{1, 1, 1}}}), {map_of({.tokens_outside = true})});
  CHECK(says(half, "small runs") && !says(half, "stretches") && !half.permutes(0));
  const TensorMap wide = map_of({.row = 4096});
  const std::string summary = plan_of(wide, {wide}).summary();
  CHECK(summary.find("small runs") == std::string::npos);
  CHECK(summary.find("8192 bytes per position") != std::string::npos);
  CHECK(summary.find("1 run of 32768 bytes per 4 positions") != std::string::npos);
}

TEST(plan_survives_damaged_peers) {
  const Shape shape{.layers = 2, .own_heads = {{0, 1, 1}, {1, 1, 1}}};
  const TensorMap map{{component(shape, "k", 0, 2), component(shape, "v", 128, 2)}};
  const std::uint64_t size = 2 * 8 * 256;
  const auto bytes = map.encode();
  const Ids ids{3, 1, 7};
  std::size_t planned = 0;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    auto damaged = bytes;
    damaged[bit / 8] ^= std::byte{1} << (bit % 8);
    try {
      const Plan plan = plan_of(map, {TensorMap::decode(damaged)});
      ++planned;
      const Ids any(64, 3);
      const std::vector<BlockTable> tables(4, BlockTable(any));
      for (const Run& r : plan.runs(0, Selection{tables, {ids}, 1, 11})) {
        CHECK(r.length > 0 && r.local_offset + r.length <= size);
      }
    } catch (const kvdirect::Error& error) {
      CHECK(error.code() == Errc::codec || error.code() == Errc::plan || error.code() == Errc::mismatch);
    }
  }
  CHECK(planned > 0);
}

TEST(extents_cover_blocks_once) {
  const TensorMap map = map_of({.layers = 2});
  const Ids ids{5, -1, 2, 3, 2};
  const std::vector<BlockTable> tables{ids};
  CHECK(block_extents(map, tables) ==
        std::vector<Extent>{{0, 256, 256}, {0, 640, 128}, {0, 1280, 256}, {0, 1664, 128}});
  // Few of many blocks, and many of them in any order.
  const std::vector<BlockTable> few{ids};
  CHECK(block_extents(map_of({.blocks = 10'000}), few) == std::vector<Extent>{{0, 256, 256}, {0, 640, 128}});
  Ids many;
  for (std::int64_t id = 199; id >= 0; --id) many.push_back(id * 37 % 200);
  many.push_back(-1);
  many.push_back(9'999);
  const std::vector<BlockTable> most{many};
  CHECK(block_extents(map_of({.blocks = 10'000}), most) == std::vector<Extent>{{0, 0, 25'600}, {0, 1'279'872, 128}});
  const Ids outside{8};
  const std::vector<BlockTable> bad{outside};
  CHECK_THROWS_WITH(block_extents(map, bad), Errc::plan, "entry 0 is 8");
  CHECK_THROWS_WITH(block_extents(map, {}), Errc::plan, "block table 0 is missing");
  CHECK(block_extents(rows(10), {}) == std::vector<Extent>{{0, 0, 10}});
}
