// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cuda/bulk_slots.h"
#include "cuda/copy_box.h"

// What copy_kernel_check has the kernels copy, and the same by the CPU.
namespace kvdirect {

inline constexpr std::byte untouched{0xA5};

using Bytes = std::vector<std::byte>;
using Random = std::mt19937_64;

// Boxes at bases; sources and targets count from the beginning of the memories.
struct Tile {
  std::vector<CopyBox> boxes;
  std::vector<CopyBase> bases;
  unsigned width = 16;
};

struct Work {
  std::vector<Tile> tiles;
  std::uint64_t source_bytes = 0;
  std::uint64_t target_bytes = 0;
};

struct Shape {
  unsigned row_bytes;
  unsigned rows = 1;
  unsigned planes = 1;
  unsigned gap = 0;        // bytes between the source's rows
  bool transpose = false;  // planes and rows change places
};

// Places a shape at the ends of a footprint on either side, and moves the ends.
inline CopyBox place(const Shape& shape, unsigned width, std::uint64_t& source_end, std::uint64_t& target_end) {
  CopyBox box{};
  box.source = source_end;
  box.target = target_end;
  box.row_bytes = shape.row_bytes;
  box.rows = shape.rows;
  box.planes = shape.planes;
  box.width = width;
  const std::uint64_t step = shape.row_bytes + shape.gap;
  box.source_row = step;
  box.source_plane = step * shape.rows;
  box.target_row = shape.transpose ? std::uint64_t{shape.row_bytes} * shape.planes : shape.row_bytes;
  box.target_plane = shape.transpose ? shape.row_bytes : std::uint64_t{shape.row_bytes} * shape.rows;
  source_end += step * shape.rows * shape.planes - shape.gap;
  target_end += std::uint64_t{shape.row_bytes} * shape.rows * shape.planes;
  return box;
}

inline std::vector<std::uint64_t> shuffled(std::size_t count, Random& random) {
  std::vector<std::uint64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::shuffle(order, random);
  return order;
}

// One tile behind what is there already: the shapes, each aligned to no more than `width`, at `bases` places in random
// order; there is a hole of `width` behind each, which must stay as it is. `tile_width` below `width`: the places are
// aligned to no more than that.
inline void add_tile(Work& work, const std::vector<Shape>& shapes, unsigned width, unsigned tile_width,
                     std::size_t bases, Random& random) {
  Tile tile;
  tile.width = tile_width;
  std::uint64_t source_end = 0;
  std::uint64_t target_end = 0;
  for (const Shape& shape : shapes) {
    tile.boxes.push_back(place(shape, width, source_end, target_end));
    source_end += width;
    target_end += width;
  }
  const std::uint64_t source_step = source_end + (tile_width < width ? tile_width : 0);
  const std::uint64_t target_step = target_end + (tile_width < width ? tile_width : 0);
  // Off the alignment of cuMemAlloc by the width, so that wider accesses than are allowed are misaligned.
  const auto begin = [&](std::uint64_t end) { return (end + 15) / 16 * 16 + tile_width % 16; };
  const std::uint64_t source = begin(work.source_bytes);
  const std::uint64_t target = begin(work.target_bytes);
  const auto from = shuffled(bases, random);
  const auto to = shuffled(bases, random);
  for (std::size_t i = 0; i < bases; ++i) {
    tile.bases.push_back({source + from[i] * source_step, target + to[i] * target_step});
  }
  // The last hole is left out: the memory ends with the last byte that is copied.
  work.source_bytes = source + bases * source_step - (source_step - source_end) - width;
  work.target_bytes = target + bases * target_step - (target_step - target_end) - width;
  work.tiles.push_back(std::move(tile));
}

// Around what a warp does at once, with and without its unrolled loop.
inline std::vector<Shape> rows_of(unsigned width) {
  std::vector<Shape> shapes;
  for (const unsigned items : {1U, 31U, 32U, 33U, 255U, 256U, 257U, 600U}) shapes.push_back({items * width});
  return shapes;
}

inline std::vector<Shape> boxes_of(unsigned width) {
  std::vector<Shape> shapes;
  for (const unsigned items : {1U, 3U, 8U, 33U}) {
    shapes.push_back({items * width, 5, 1, width});
    shapes.push_back({items * width, 7, 3, 2 * width});
    shapes.push_back({items * width, 16, 9, 0, true});
    shapes.push_back({items * width, 1, 4, width, true});
  }
  return shapes;
}

// Around what is moved in bulk at once, and the shortest rows that are.
inline std::vector<Shape> rows_around_slots() {
  std::vector<Shape> shapes;
  for (const unsigned bytes : {bulk_least_row, bulk_slot_bytes / 2, bulk_slot_bytes, 3 * bulk_slot_bytes}) {
    for (const unsigned row : {bytes - 16, bytes, bytes + 16}) {
      shapes.push_back({row});
      shapes.push_back({row, 5, 1, 32});
      shapes.push_back({row, 9, 3, 16, true});
    }
  }
  return shapes;
}

inline std::vector<Work> all_work(Random& random) {
  std::vector<Work> all;
  for (const unsigned width : {16U, 8U, 4U, 2U, 1U}) {
    Work& one = all.emplace_back();
    add_tile(one, rows_of(width), width, width, 1, random);
    Work& many = all.emplace_back();
    add_tile(many, rows_of(width), width, width, 23, random);
    add_tile(many, boxes_of(width), width, width, 11, random);
    add_tile(many, {{3 * width}}, width, width, 1, random);
    if (width == 16) continue;
    Work& narrowed = all.emplace_back();
    add_tile(narrowed, rows_of(16), 16, width, 9, random);
    add_tile(narrowed, boxes_of(16), 16, width, 5, random);
  }
  Work& large = all.emplace_back();
  add_tile(large, {{copy_box_bytes}}, 16, 16, 3000, random);
  add_tile(large, {{4096}}, 16, 16, 5000, random);
  Work& around = all.emplace_back();
  add_tile(around, rows_around_slots(), 16, 16, 7, random);
  add_tile(around, rows_of(4), 4, 4, 5, random);
  add_tile(around, rows_around_slots(), 16, 8, 3, random);
  all.emplace_back();  // nothing
  return all;
}

inline Bytes copied_by_cpu(const Work& work, const Bytes& source) {
  Bytes target(work.target_bytes, untouched);
  for (const Tile& tile : work.tiles) {
    for (const CopyBase& base : tile.bases) {
      for (const CopyBox& box : tile.boxes) {
        for (std::uint64_t plane = 0; plane < box.planes; ++plane) {
          for (std::uint64_t row = 0; row < box.rows; ++row) {
            const std::uint64_t from = base.source + box.source + row * box.source_row + plane * box.source_plane;
            const std::uint64_t to = base.target + box.target + row * box.target_row + plane * box.target_plane;
            std::memcpy(target.data() + to, source.data() + from, box.row_bytes);
          }
        }
      }
    }
  }
  return target;
}

}  // namespace kvdirect
