// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <random>
#include <utility>
#include <vector>

#include "check.h"
#include "planner/piece_cursor.h"

namespace kvdirect {

namespace {

struct Groups {
  std::vector<std::vector<Run>> patterns;
  std::vector<std::vector<RunGroup::Base>> bases;
  std::vector<RepeatedRuns> views;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> bytes;  // remote and local offset of each, in order

  explicit Groups(std::mt19937& random) {
    const auto up_to = [&](std::uint64_t most) { return random() % (most + 1); };
    for (std::uint64_t count = up_to(3) + 1; count > 0; --count) {
      auto& pattern = patterns.emplace_back();
      auto& at = bases.emplace_back();
      for (std::uint64_t runs = up_to(3); runs > 0; --runs) pattern.push_back({up_to(9), up_to(9), up_to(6) + 1, 0, 0});
      for (std::uint64_t n = up_to(5); n > 0; --n) at.push_back({up_to(99), up_to(99)});
      // Neighbours on both sides, on one, and on none.
      if (pattern.size() == 1 && at.size() > 1 && up_to(1) == 0) {
        at[1] = {at[0].remote + pattern[0].length, at[0].local + pattern[0].length + up_to(1)};
      }
    }
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      views.emplace_back(patterns[i], bases[i]);
      for (const auto& base : bases[i]) {
        for (const Run& run : patterns[i]) {
          for (std::uint64_t at = 0; at < run.length; ++at) {
            bytes.emplace_back(base.remote + run.remote_offset + at, base.local + run.local_offset + at);
          }
        }
      }
    }
  }
};

}  // namespace

TEST(pieces_are_the_groups_bytes_in_order_however_they_are_cut) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    const Groups groups(random);
    PieceCursor rest(groups.views, groups.bytes.size());
    std::vector<std::pair<std::uint64_t, std::uint64_t>> walked;
    while (!rest.done()) {
      const std::uint64_t part = std::min<std::uint64_t>(random() % 9 + 1, rest.left());
      for (PieceCursor some = rest.first(part); !some.done();) {
        const Run following = some.next();
        const Run piece = some.take();
        CHECK(piece.remote_offset == following.remote_offset && piece.local_offset == following.local_offset);
        for (std::uint64_t at = 0; at < piece.length; ++at) {
          walked.emplace_back(piece.remote_offset + at, piece.local_offset + at);
        }
      }
      rest.skip(part);
    }
    CHECK(walked == groups.bytes);
  }
}

TEST(neighbours_are_one_piece) {
  const std::vector<Run> pattern{{.remote_offset = 5, .local_offset = 7, .length = 10}};
  const std::vector<RunGroup::Base> bases{{0, 0}, {10, 10}, {20, 20}, {40, 30}};
  const std::vector<RepeatedRuns> groups{{pattern, bases}};
  PieceCursor cursor(groups, 40);
  CHECK(cursor.take().length == 30);
  CHECK(cursor.take() == Run({.remote_offset = 45, .local_offset = 37, .length = 10}));
  CHECK(cursor.done());
}

}  // namespace kvdirect
