// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <tuple>
#include <vector>

#include "check.h"
#include "cuda/tile_list.h"

using kvdirect::CopyBox;
using kvdirect::RegionAddresses;
using kvdirect::Run;
using kvdirect::RunGroup;
using kvdirect::TileList;

namespace {

using Byte = std::pair<std::uint64_t, std::uint64_t>;  // from, to
const RegionAddresses addresses{{1 << 20, 1 << 24}, {1 << 28, 1 << 27}};

std::uint64_t pick(std::mt19937& random, std::uint64_t low, std::uint64_t high) {
  return std::uniform_int_distribution<std::uint64_t>(low, high)(random);
}

// Runs as layouts that disagree leave them: planes of rows at equal distances, long ones, odd ones.
std::vector<Run> pattern(std::mt19937& random) {
  std::vector<Run> runs;
  std::uint64_t remote = 0;
  std::uint64_t local = 1 << 22;
  const std::array<std::uint64_t, 7> lengths{1, 7, 64, 256, 2048, 5000, 40000};
  for (std::uint64_t part = pick(random, 1, 4); part > 0; --part) {
    const std::uint64_t length = lengths[pick(random, 0, lengths.size() - 1)];
    const std::uint64_t planes = pick(random, 1, 5);
    const std::uint64_t rows = pick(random, 1, 9);
    const std::uint64_t gap = pick(random, 0, 2) * 16;
    for (std::uint64_t i = 0; i < planes * rows; ++i) {
      // The local side runs backwards through planes.
      const std::uint64_t there = local - (i / rows) * rows * length - (rows - i % rows) * length;
      runs.push_back({remote, there, length, static_cast<std::uint32_t>(part % 2), 0});
      remote += length + gap;
    }
    local -= planes * rows * length;
  }
  return runs;
}

void add(std::vector<Byte>& bytes, const CopyBox& box, const RunGroup::Base& base) {
  for (std::uint64_t plane = 0; plane < box.planes; ++plane) {
    for (std::uint64_t row = 0; row < box.rows; ++row) {
      for (std::uint64_t i = 0; i < box.row_bytes; ++i) {
        bytes.emplace_back(box.source + base.remote + row * box.source_row + plane * box.source_plane + i,
                           box.target + base.local + row * box.target_row + plane * box.target_plane + i);
      }
    }
  }
}

std::vector<Byte> bytes_of(const std::vector<RunGroup>& groups) {
  std::vector<Byte> bytes;
  for (const RunGroup& group : groups) {
    for (const Run& run : group.pattern) {
      for (const RunGroup::Base& base : group.bases) {
        for (std::uint64_t i = 0; i < run.length; ++i) {
          bytes.emplace_back(addresses.remote[run.remote_region] + run.remote_offset + base.remote + i,
                             addresses.local[run.local_region] + run.local_offset + base.local + i);
        }
      }
    }
  }
  std::ranges::sort(bytes);
  return bytes;
}

bool fits(const CopyBox& box, const RunGroup::Base& base, unsigned width) {
  const unsigned access = std::min(box.width, width);
  const std::uint64_t all = (box.source + base.remote) | (box.target + base.local) | box.row_bytes |
                            (box.rows > 1 ? box.source_row | box.target_row : 0) |
                            (box.planes > 1 ? box.source_plane | box.target_plane : 0);
  return all % access == 0;
}

}  // namespace

TEST(tiles_are_the_groups_each_byte_once) {
  std::mt19937 random(1);
  for (int round = 0; round < 40; ++round) {
    std::vector<RunGroup> groups;
    for (std::uint64_t i = pick(random, 1, 3); i > 0; --i) {
      RunGroup group{pattern(random), {}};
      const std::uint64_t step = pick(random, 1, 64);
      for (std::uint64_t k = pick(random, 1, 6); k > 0; --k)
        group.bases.push_back({k * step << 20, (9 - k) * step << 20});
      groups.push_back(std::move(group));
    }
    const std::vector<Byte> wanted = bytes_of(groups);
    TileList tiles(groups, addresses);
    std::vector<Byte> given;
    const TileList::Room whole{pick(random, 1, 8), pick(random, 1, 4), pick(random, 1, 100000)};
    TileList::Room room = whole;
    while (!tiles.empty()) {
      const auto tile = tiles.next(room);
      if (!tile) {
        CHECK(room.boxes < whole.boxes || room.bases < whole.bases);
        room = whole;
        continue;
      }
      CHECK(tile->boxes.size() <= room.boxes && tile->bases.size() <= room.bases);
      room.boxes -= tile->boxes.size();
      room.bases -= tile->bases.size();
      for (const CopyBox& box : tile->boxes) {
        CHECK(kvdirect::bytes_of(box) <= kvdirect::copy_box_bytes);
        for (const RunGroup::Base& base : tile->bases) {
          CHECK(fits(box, base, tile->width));
          add(given, box, base);
        }
      }
    }
    CHECK(tiles.given() == given.size());
    std::ranges::sort(given);
    CHECK(given == wanted);
  }
}

TEST(permuted_rows_are_few_boxes) {
  // 16 tokens of 8 heads of 256 bytes: heads inside tokens there, tokens inside heads here.
  std::vector<Run> runs;
  for (std::uint64_t token = 0; token < 16; ++token) {
    for (std::uint64_t head = 0; head < 8; ++head) {
      runs.push_back({(token * 8 + head) * 256, (head * 16 + token) * 256, 256, 0, 0});
    }
  }
  const auto boxes = kvdirect::boxes_of(runs, addresses);
  CHECK(boxes.size() == 2);
  CHECK(boxes[0].rows == 8 && boxes[0].planes == 8 && boxes[0].row_bytes == 256 && boxes[0].width == 16);
  CHECK(boxes[0].source_row == 256 && boxes[0].target_row == 16 * 256);
}
