// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// The one kernel: warps of a grid that stays put take boxes in turn and copy them, gathering, scattering and permuting
// as the tiles say. Built into the extension as a fatbin, launched through the driver.
#include "copy_box.h"

namespace kvdirect {

namespace {

constexpr unsigned lanes = 32;
// Loads in flight per thread: what hides the memory's latency.
constexpr unsigned unroll = 8;

// Where item `index` of a box lies, in bytes from its first.
struct Walk {
  unsigned items_per_row, rows;

  __device__ __forceinline__ void at(const CopyBox& box, unsigned index, unsigned width, unsigned long long& source,
                                     unsigned long long& target) const {
    const unsigned row = index / items_per_row;
    const unsigned long long inside = static_cast<unsigned long long>(index - row * items_per_row) * width;
    const unsigned plane = row / rows;
    const unsigned row_in_plane = row - plane * rows;
    source = box.source + inside + row_in_plane * box.source_row + plane * box.source_plane;
    target = box.target + inside + row_in_plane * box.target_row + plane * box.target_plane;
  }
};

template <typename Item>
__device__ __forceinline__ const Item* source_at(unsigned long long address) {
  return reinterpret_cast<const Item*>(address);
}

template <typename Item>
__device__ __forceinline__ void copy_row(const CopyBox& box, unsigned lane) {
  const Item* source = source_at<Item>(box.source);
  Item* target = reinterpret_cast<Item*>(box.target);
  const unsigned items = box.row_bytes / sizeof(Item);
  unsigned i = lane;
  for (; i + (unroll - 1) * lanes < items; i += unroll * lanes) {
    Item held[unroll];
#pragma unroll
    for (unsigned k = 0; k < unroll; ++k) held[k] = __ldcs(source + i + k * lanes);
#pragma unroll
    for (unsigned k = 0; k < unroll; ++k) target[i + k * lanes] = held[k];
  }
  for (; i < items; i += lanes) target[i] = __ldcs(source + i);
}

template <typename Item>
__device__ __forceinline__ void copy_rows(const CopyBox& box, unsigned lane) {
  const Walk walk{box.row_bytes / static_cast<unsigned>(sizeof(Item)), box.rows};
  const unsigned items = walk.items_per_row * box.rows * box.planes;
  unsigned i = lane;
  unsigned long long source = 0;
  unsigned long long target = 0;
  for (; i + (unroll - 1) * lanes < items; i += unroll * lanes) {
    Item held[unroll];
    unsigned long long targets[unroll];
#pragma unroll
    for (unsigned k = 0; k < unroll; ++k) {
      walk.at(box, i + k * lanes, sizeof(Item), source, targets[k]);
      held[k] = __ldcs(source_at<Item>(source));
    }
#pragma unroll
    for (unsigned k = 0; k < unroll; ++k) *reinterpret_cast<Item*>(targets[k]) = held[k];
  }
  for (; i < items; i += lanes) {
    walk.at(box, i, sizeof(Item), source, target);
    *reinterpret_cast<Item*>(target) = __ldcs(source_at<Item>(source));
  }
}

template <typename Item>
__device__ __forceinline__ void copy_box(const CopyBox& box, unsigned lane) {
  if (box.rows == 1 && box.planes == 1) {
    copy_row<Item>(box, lane);
  } else {
    copy_rows<Item>(box, lane);
  }
}

}  // namespace

// No two boxes write the same byte, and none reads what another writes. `units`: how many boxes at bases all tiles
// have. Any grid of one-dimensional blocks of a whole number of warps will do.
extern "C" __global__ void __launch_bounds__(copy_threads_per_block)
    kvdirect_copy_tiles(const CopyTile* __restrict__ tiles, unsigned tile_count, unsigned units) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned lane = thread % lanes;
  const unsigned warps = gridDim.x * blockDim.x / lanes;
  unsigned at = 0;
  for (unsigned unit = thread / lanes; unit < units; unit += warps) {
    while (at + 1 < tile_count && unit >= tiles[at + 1].first_unit) ++at;
    const CopyTile& tile = tiles[at];
    const unsigned inside = unit - tile.first_unit;
    const unsigned which = inside / tile.base_count;
    const CopyBase base = tile.bases[inside - which * tile.base_count];
    CopyBox box = tile.boxes[which];
    box.source += base.source;
    box.target += base.target;
    switch (box.width < tile.width ? box.width : tile.width) {
      case 16: copy_box<uint4>(box, lane); break;
      case 8: copy_box<uint2>(box, lane); break;
      case 4: copy_box<unsigned>(box, lane); break;
      case 2: copy_box<unsigned short>(box, lane); break;
      default: copy_box<unsigned char>(box, lane); break;
    }
  }
}

}  // namespace kvdirect
