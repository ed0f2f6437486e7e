// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cuda/copy_box.h"
#include "cuda/tile_list.h"

namespace kvdirect {

// What one launch is told, back to back so that one copy brings it all: boxes and bases, and behind them the tiles.
struct PackedTiles {
  // What fits: with boxes of 16 KiB at as many bases, far more than a launch copies.
  static constexpr std::size_t most_tiles = 64;
  static constexpr std::size_t most_boxes = 8192;
  static constexpr std::size_t most_bases = 65536;
  static constexpr std::size_t most_bytes =
      sizeof(CopyTile) * most_tiles + sizeof(CopyBox) * most_boxes + sizeof(CopyBase) * most_bases;

  // The next of `list`, about `copied` bytes, written to `room`; it is read at `address`.
  PackedTiles(TileList& list, std::uint64_t copied, std::span<std::byte> room, std::uint64_t address);

  std::size_t bytes = 0;
  std::uint64_t tiles = 0;  // their address
  unsigned tile_count = 0;
  unsigned units = 0;
};

}  // namespace kvdirect
