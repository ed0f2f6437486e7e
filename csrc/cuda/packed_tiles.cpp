// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/packed_tiles.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace kvdirect {

namespace {

constexpr std::uint64_t units_per_launch = std::uint64_t{1} << 31;

static_assert(sizeof(CopyBase) == sizeof(RunGroup::Base));

}  // namespace

PackedTiles::PackedTiles(TileList& list, std::uint64_t copied, std::span<std::byte> room, std::uint64_t address) {
  const auto put = [&](auto things) {
    std::memcpy(room.data() + bytes, things.data(), things.size_bytes());
    return address + std::exchange(bytes, bytes + things.size_bytes());
  };
  // Last, as how many there are shows at the end.
  std::array<CopyTile, most_tiles> heads;
  TileList::Room left{most_boxes, most_bases, copied};
  while (!list.empty() && tile_count < heads.size() && left.bytes > 0 && units < units_per_launch) {
    // The heads follow.
    left.told = room.size() - bytes - tile_count * sizeof(CopyTile);
    const auto tile = list.next(left);
    if (!tile) break;
    heads[tile_count++] = {reinterpret_cast<const CopyBox*>(put(tile->boxes)),
                           reinterpret_cast<const CopyBase*>(put(tile->bases)),
                           static_cast<unsigned>(tile->boxes.size()),
                           static_cast<unsigned>(tile->bases.size()),
                           units,
                           tile->width};
    left.boxes -= tile->boxes.size();
    left.bases -= tile->bases.size();
    left.bytes -= std::min(left.bytes, tile->bytes());
    units += static_cast<unsigned>(tile->units());
  }
  tiles = put(std::span(heads).first(tile_count));
}

}  // namespace kvdirect
