// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <iterator>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "plan_shapes.h"
#include "planner/run_list.h"

using namespace kvdirect::plan_shapes;

namespace {

// Every run that the groups stand for, joined as runs() joins them.
Runs spelled_out(const std::vector<kvdirect::RunGroup>& groups) {
  Runs runs;
  for (const auto& group : groups) {
    for (const Run& pattern : group.pattern) {
      for (const auto& base : group.bases) {
        runs.push_back({pattern.remote_offset + base.remote, pattern.local_offset + base.local, pattern.length,
                        pattern.remote_region, pattern.local_region});
      }
    }
  }
  kvdirect::RunList list(runs.size());
  std::ranges::sort(runs, {}, &Run::remote_offset);
  for (const Run& run : runs) list.append(run);
  return list.take();
}

}  // namespace

TEST(plan_groups_are_the_runs) {
  const Shape theirs{.layers = 3, .tokens_outside = true};
  for (const Shape& ours : {theirs, Shape{.layers = 3}, Shape{.layers = 3, .blocks_outside = true}}) {
    const Plan plan = plan_of(map_of(ours), {map_of(theirs)});
    for (const auto& [start, stop] : {std::pair{0, 12}, {1, 11}, {5, 7}, {4, 4}}) {
      const Ids remote{5, 2, 0};
      const Ids local{1, 3, 7};
      const auto first = static_cast<std::uint64_t>(start);
      const auto last = static_cast<std::uint64_t>(stop);
      const auto groups = plan.groups(0, Selection{{remote}, {local}, first, last});
      CHECK(spelled_out(groups) == runs_of(plan, remote, local, first, last));
    }
  }
  const Plan whole = plan_of(rows(64), {rows(64)});
  CHECK(spelled_out(whole.groups(0, Selection{{}, {}, 0, 1})) == whole.runs(0, Selection{{}, {}, 0, 1}));
}

// In memory that held others, with holes, of every part of the positions; and what is refused is refused alike.
TEST(plan_groups_are_the_runs_whatever_came_before) {
  const Plan plan = plan_of(map_of({.layers = 2}), {map_of({.layers = 2})});
  const Ids remote{5, -1, 0, 3, 2};
  const Ids local{1, -1, 7, 0, 6};
  for (std::uint64_t start = 0; start <= 20; ++start) {
    for (std::uint64_t stop = start; stop <= 20; ++stop) {
      auto groups = plan.groups(0, Selection{{remote}, {local}, start, stop});
      CHECK(spelled_out(groups) == runs_of(plan, remote, local, start, stop));
      plan.reuse(std::move(groups));
    }
  }
  const auto refusal = [&](const auto& ask) -> std::string {
    try {
      ask();
    } catch (const kvdirect::Error& error) {
      return error.what();
    }
    return "";
  };
  for (const auto& [theirs, ours] : std::vector<std::pair<Ids, Ids>>{{{0, 1, 99}, {0, 1, 2}},
                                                                     {{0, 1, 2}, {0, 1, 99}},
                                                                     {{0, -1, 2}, {0, 1, 2}},
                                                                     {{0, 1, 2}, {3, 1, 3}},
                                                                     {{0}, {0, 1, 2}}}) {
    const Selection selection{{theirs}, {ours}, 0, 12};
    const auto told = refusal([&] { static_cast<void>(plan.groups(0, selection)); });
    CHECK(!told.empty());
    CHECK(told == refusal([&] { static_cast<void>(plan.runs(0, selection)); }));
  }
}

// Whatever the parts, and in memory that held others.
TEST(plan_parts_are_the_whole) {
  const Shape theirs{.layers = 3, .tokens_outside = true};
  for (const Shape& ours : {theirs, Shape{.layers = 3, .tokens = 2}}) {
    const Plan plan = plan_of(map_of(ours), {map_of(theirs)});
    const Ids remote{5, 2, 0, 1, 7};
    const Ids local = ours.tokens == 4 ? Ids{1, -1, 7, 0, 3} : Ids{1, 4, -1, 7, 0, 3, 6, 5, 2, -1};
    for (const std::size_t blocks : {1, 2, 3, 100}) {
      for (const auto& [start, stop] : {std::pair<std::uint64_t, std::uint64_t>{0, 20}, {1, 19}, {5, 7}, {4, 4}}) {
        const Selection selection{{remote}, {local}, start, stop};
        kvdirect::GroupCursor cursor(plan, 0, selection);
        Runs runs;
        while (!cursor.done()) {
          auto groups = cursor.next(blocks);
          std::ranges::copy(spelled_out(groups), std::back_inserter(runs));
          plan.reuse(std::move(groups));
        }
        kvdirect::RunList list(runs.size());
        std::ranges::sort(runs, {}, &Run::remote_offset);
        for (const Run& run : runs) list.append(run);
        CHECK(list.take() == runs_of(plan, remote, local, start, stop));
      }
    }
  }
}

TEST(plan_parts_are_refused_when_their_turn_comes) {
  const Plan plan = plan_of(map_of({}), {map_of({})});
  const Ids good{0, 1, 2, 3};
  for (const auto& [remote, local, why] : {std::tuple<Ids, Ids, const char*>{{0, 1, 2, 9}, good, "entry 3 is 9"},
                                           {good, {0, 1, 2, 9}, "local block table 0 entry 3 is 9"},
                                           {{0, 1, 2, -1}, good, "entry 3 is a hole"},
                                           {good, {0, 1, 2, 0}, "names block 0 twice"}}) {
    kvdirect::GroupCursor cursor(plan, 0, Selection{{remote}, {local}, 0, 16});
    CHECK(spelled_out(cursor.next(3)) == runs_of(plan, good, good, 0, 12));
    CHECK_THROWS_WITH(static_cast<void>(cursor.next(1)), Errc::plan, why);
  }
  CHECK_THROWS_WITH(kvdirect::GroupCursor(plan, 0, Selection{{good}, {good}, 0, 17}), Errc::plan, "has 4 entries");
}

// Blocks of many regions are looked at once, whether their sizes differ or not.
TEST(plan_groups_share_what_lies_alike) {
  for (const std::uint64_t tokens : {4, 2}) {
    TensorMap theirs, ours;
    for (std::uint32_t layer = 0; layer < 5; ++layer) {
      for (auto* map : {&theirs, &ours}) {
        auto& one = map->components.emplace_back(
            component({.tokens = map == &ours ? tokens : 4, .tokens_outside = true}, "kv" + std::to_string(layer)));
        one.region = layer;
      }
    }
    const Plan plan = plan_of(ours, {theirs});
    const Ids remote{5, 2, 0};
    const Ids local{1, 3, 7, 6, 0, 2};
    const auto groups = plan.groups(0, Selection{{remote}, {local}, 0, 12});
    CHECK(groups.size() == 1);
    CHECK(groups.front().pattern.size() == 5);
    CHECK(groups.front().bases.size() == 12 / tokens);
  }
}
