// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "cuda/box_list.h"
#include "cuda/copy_box.h"
#include "planner/plan.h"

namespace kvdirect {

// The groups of a pull as work for a GPU, handed out in parts that fit in what a launch is given.
class TileList {
 public:
  // Every one of `boxes` at every one of `bases`.
  struct Tile {
    std::span<const CopyBox> boxes;
    std::span<const RunGroup::Base> bases;
    unsigned width = 16;  // the widest access that the bases allow
    [[nodiscard]] std::uint64_t units() const noexcept { return boxes.size() * bases.size(); }
    [[nodiscard]] std::uint64_t bytes() const noexcept;
  };
  struct Room {
    std::size_t boxes = 0;
    std::size_t bases = 0;
    std::uint64_t bytes = 0;                                     // may be exceeded by one box
    std::size_t told = std::numeric_limits<std::size_t>::max();  // bytes that a tile, its boxes and bases take
  };

  // Keeps spans of the groups' bases.
  TileList(std::span<const RunGroup> groups, BoxCache& boxes);
  TileList(std::span<const RunGroup> groups, const RegionAddresses& addresses);

  [[nodiscard]] bool empty() const noexcept { return _part == _parts.size(); }
  // At most so many bytes are needed to tell what is left in one tile a part.
  [[nodiscard]] std::size_t told() const noexcept;
  // Bytes of the tiles that were handed out.
  [[nodiscard]] std::uint64_t given() const noexcept { return _given; }
  // The next tile; nullopt if it does not fit in a room that is not whole. Only if not empty.
  [[nodiscard]] std::optional<Tile> next(Room room);

 private:
  struct Part {
    BoxCache::Boxes boxes;
    std::span<const RunGroup::Base> bases;
    unsigned width = 16;
  };
  void advance(const Part& part);

  std::vector<Part> _parts;
  std::size_t _part = 0;
  // Of the current part: boxes [_first, _end) at the bases from _base on.
  std::size_t _first = 0;
  std::size_t _end = 0;
  std::size_t _base = 0;
  std::uint64_t _given = 0;
};

}  // namespace kvdirect
