// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// The one kernel: warps of a grid that stays put take boxes in turn and copy them, gathering, scattering and permuting
// as the tiles say. Built into the extension as a fatbin, launched through the driver.
#include "copy_box.h"

namespace kvdirect {

namespace {

constexpr unsigned lanes = 32;
// Loads in flight per thread, which hide the memory's latency: what the registers of a full block have room for.
constexpr unsigned loads = 8;
constexpr unsigned loads_of_rows = 4;

template <typename Item>
__device__ __forceinline__ const Item* source_at(unsigned long long address) {
  return reinterpret_cast<const Item*>(address);
}

// Asks for what will be read soon.
__device__ __forceinline__ void prefetch(const void* address) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L1 [%0];" ::"l"(address));
#else
  static_cast<void>(address);
#endif
}

template <typename Item>
__device__ __forceinline__ void copy_row(const CopyBox& box, unsigned lane) {
  const Item* source = source_at<Item>(box.source);
  Item* target = reinterpret_cast<Item*>(box.target);
  const unsigned items = box.row_bytes / sizeof(Item);
  unsigned i = lane;
  for (; i + (loads - 1) * lanes < items; i += loads * lanes) {
    Item held[loads];
#pragma unroll
    for (unsigned k = 0; k < loads; ++k) held[k] = __ldcs(source + i + k * lanes);
#pragma unroll
    for (unsigned k = 0; k < loads; ++k) target[i + k * lanes] = held[k];
  }
  for (; i < items; i += lanes) target[i] = __ldcs(source + i);
}

// Where a lane is in a box of rows; the next item is `lanes` further, which takes no division.
class Walk {
 public:
  __device__ __forceinline__ Walk(const CopyBox& box, unsigned items_per_row, unsigned lane)
      : _items(items_per_row), _rows(box.rows) {
    const unsigned row = lane / _items;
    _item = lane - row * _items;
    _plane = row / _rows;
    _row = row - _plane * _rows;
    const unsigned rows_a_step = lanes / _items;
    _item_step = lanes - rows_a_step * _items;
    _plane_step = rows_a_step / _rows;
    _row_step = rows_a_step - _plane_step * _rows;
  }

  template <typename Item>
  __device__ __forceinline__ const Item* source(const CopyBox& box) const {
    return source_at<Item>(box.source + _item * sizeof(Item) + _row * box.source_row + _plane * box.source_plane);
  }
  template <typename Item>
  __device__ __forceinline__ Item* target(const CopyBox& box) const {
    return reinterpret_cast<Item*>(box.target + _item * sizeof(Item) + _row * box.target_row +
                                   _plane * box.target_plane);
  }

  __device__ __forceinline__ void advance() {
    _item += _item_step;
    _row += _row_step;
    _plane += _plane_step;
    if (_item >= _items) {
      _item -= _items;
      ++_row;
    }
    if (_row >= _rows) {
      _row -= _rows;
      ++_plane;
    }
  }

 private:
  unsigned _items, _rows;
  unsigned _item, _row, _plane;
  unsigned _item_step, _row_step, _plane_step;
};

template <typename Item>
__device__ __forceinline__ void copy_rows(const CopyBox& box, unsigned lane) {
  const unsigned items_per_row = box.row_bytes / static_cast<unsigned>(sizeof(Item));
  const unsigned items = items_per_row * box.rows * box.planes;
  Walk walk(box, items_per_row, lane);
  unsigned i = lane;
  for (; i + (loads_of_rows - 1) * lanes < items; i += loads_of_rows * lanes) {
    Item held[loads_of_rows];
    Item* targets[loads_of_rows];
#pragma unroll
    for (unsigned k = 0; k < loads_of_rows; ++k, walk.advance()) {
      held[k] = __ldcs(walk.source<Item>(box));
      targets[k] = walk.target<Item>(box);
    }
#pragma unroll
    for (unsigned k = 0; k < loads_of_rows; ++k) *targets[k] = held[k];
  }
  for (; i < items; i += lanes, walk.advance()) *walk.target<Item>(box) = __ldcs(walk.source<Item>(box));
}

template <typename Item>
__device__ __forceinline__ void copy_box(const CopyBox& box, unsigned lane) {
  if (box.rows == 1 && box.planes == 1) {
    copy_row<Item>(box, lane);
  } else {
    copy_rows<Item>(box, lane);
  }
}

// A box at a base.
struct Unit {
  const CopyBox* box;
  const CopyBase* base;
  unsigned width;
};

template <typename Item>
__device__ __forceinline__ const Item* placed(const Item* from, unsigned long long origin) {
  return source_at<Item>(reinterpret_cast<unsigned long long>(from) + origin);
}

// Unit number `unit` of the tiles, the first `at` of which it is behind. `origin`: where their pointers count from.
__device__ __forceinline__ Unit find(const CopyTile* tiles, unsigned tile_count, unsigned unit, unsigned& at,
                                     unsigned long long origin = 0) {
  while (at + 1 < tile_count && unit >= tiles[at + 1].first_unit) ++at;
  const CopyTile& tile = tiles[at];
  const unsigned inside = unit - tile.first_unit;
  const unsigned which = inside / tile.base_count;
  const Unit found{placed(tile.boxes, origin) + which, placed(tile.bases, origin) + (inside - which * tile.base_count),
                   tile.width};
  // Parameters are at hand.
  if (origin != 0) return found;
  prefetch(found.box);
  prefetch(found.base);
  return found;
}

__device__ __forceinline__ void copy(const Unit& unit, unsigned lane) {
  CopyBox box = *unit.box;
  box.source += unit.base->source;
  box.target += unit.base->target;
  switch (box.width < unit.width ? box.width : unit.width) {
    case 16: copy_box<uint4>(box, lane); break;
    case 8: copy_box<uint2>(box, lane); break;
    case 4: copy_box<unsigned>(box, lane); break;
    case 2: copy_box<unsigned short>(box, lane); break;
    default: copy_box<unsigned char>(box, lane); break;
  }
}

__device__ __forceinline__ void copy_all(const CopyTile* tiles, unsigned tile_count, unsigned units,
                                         unsigned long long origin) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned lane = thread % lanes;
  const unsigned warps = gridDim.x * blockDim.x / lanes;
  unsigned unit = thread / lanes;
  if (unit >= units) return;
  unsigned at = 0;
  Unit next = find(tiles, tile_count, unit, at, origin);
  for (bool more = true; more; unit += warps) {
    const Unit now = next;
    more = warps < units - unit;
    // While this one is copied, what describes the next comes nearer.
    if (more) next = find(tiles, tile_count, unit + warps, at, origin);
    copy(now, lane);
  }
}

}  // namespace

// No two boxes write the same byte, and none reads what another writes. `units`: how many boxes at bases all tiles
// have. Any grid of one-dimensional blocks of a whole number of warps will do.
extern "C" __global__ void __launch_bounds__(copy_threads_per_block, 1)
    kvdirect_copy_tiles(const CopyTile* __restrict__ tiles, unsigned tile_count, unsigned units) {
  copy_all(tiles, tile_count, units, 0);
}

// Likewise, told in its parameters.
extern "C" __global__ void __launch_bounds__(copy_threads_per_block, 1)
    kvdirect_copy_order(const CopyOrder __grid_constant__ order) {
  copy_all(reinterpret_cast<const CopyTile*>(order.bytes + order.tiles), order.tile_count, order.units,
           reinterpret_cast<unsigned long long>(order.bytes));
}

}  // namespace kvdirect

// After what it shares with this one.
#include "bulk_kernel.h"
