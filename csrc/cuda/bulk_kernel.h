// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

// The other kernel, a part of copy_kernel.cu: boxes go through shared memory, moved by what moves bytes in bulk. For
// GPUs that have that; the image for others lacks it.
#include "bulk_slots.h"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

namespace kvdirect {

namespace {

// Pieces on their way through a warp's slots; all but the one that is being stored are loaded meanwhile. The methods
// are for one thread of the warp.
class BulkPipe {
 public:
  __device__ __forceinline__ explicit BulkPipe(unsigned warp) : _slots(warp) {}

  __device__ __forceinline__ void open() { _slots.open(); }

  __device__ __forceinline__ void take(const CopyBox& box) {
    const unsigned bytes = box.row_bytes < bulk_slot_bytes ? box.row_bytes : bulk_slot_bytes;
    const unsigned rows = bulk_slot_bytes / bytes;
    for (unsigned plane = 0; plane < box.planes; ++plane) {
      for (unsigned row = 0; row < box.rows; row += rows) {
        const unsigned long long source = box.source + row * box.source_row + plane * box.source_plane;
        const unsigned long long target = box.target + row * box.target_row + plane * box.target_plane;
        const unsigned rows_left = box.rows - row;
        for (unsigned at = 0; at < box.row_bytes; at += bytes) {
          const unsigned bytes_left = box.row_bytes - at;
          take(source + at, box.source_row,
               {target + at, box.target_row, bytes_left < bytes ? bytes_left : bytes,
                rows_left < rows ? rows_left : rows});
        }
      }
    }
  }

  // All that was taken is in its place.
  __device__ __forceinline__ void finish() {
    for (unsigned i = 0; i < bulk_slots; ++i) {
      if (_taken + i >= bulk_slots) store(_taken + i - bulk_slots);
    }
    _slots.await_stores();
  }

 private:
  __device__ __forceinline__ void take(unsigned long long source, unsigned long long source_row,
                                       const BulkPiece& piece) {
    if (_taken >= bulk_slots) {
      store(_taken - bulk_slots);
      _slots.await_reads();
    }
    const unsigned slot = _taken % bulk_slots;
    _slots.expect(slot, piece.rows * piece.row_bytes);
    for (unsigned row = 0; row < piece.rows; ++row) {
      _slots.load(slot, row * piece.row_bytes, source + row * source_row, piece.row_bytes);
    }
    _slots.piece(slot) = piece;
    ++_taken;
  }

  // What was taken as number `number`.
  __device__ __forceinline__ void store(unsigned number) {
    const unsigned slot = number % bulk_slots;
    const BulkPiece piece = _slots.piece(slot);
    _slots.await_load(slot, number / bulk_slots % 2);
    for (unsigned row = 0; row < piece.rows; ++row) {
      _slots.store(slot, row * piece.row_bytes, piece.target + row * piece.target_row, piece.row_bytes);
    }
  }

  BulkSlots _slots;
  unsigned _taken = 0;
};

// Rows of whole 16 bytes between addresses that 16 divides, and not too short.
__device__ __forceinline__ bool goes_in_bulk(const Unit& unit) {
  return unit.width == 16 && unit.box->width == 16 && unit.box->row_bytes >= bulk_least_row;
}

}  // namespace

// As kvdirect_copy_tiles, in blocks of at most bulk_warps warps, with bulk_warp_bytes of shared memory for each.
extern "C" __global__ void __launch_bounds__(bulk_warps* lanes, 1)
    kvdirect_bulk_tiles(const CopyTile* __restrict__ tiles, unsigned tile_count, unsigned units) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned lane = thread % lanes;
  const unsigned warps = gridDim.x * blockDim.x / lanes;
  unsigned unit = thread / lanes;
  if (unit >= units) return;
  BulkPipe pipe(threadIdx.x / lanes);
  if (lane == 0) pipe.open();
  unsigned at = 0;
  Unit next = find(tiles, tile_count, unit, at);
  for (bool more = true; more; unit += warps) {
    const Unit now = next;
    more = warps < units - unit;
    if (more) next = find(tiles, tile_count, unit + warps, at);
    if (!goes_in_bulk(now)) {
      copy(now, lane);
    } else if (lane == 0) {
      CopyBox box = *now.box;
      box.source += now.base->source;
      box.target += now.base->target;
      pipe.take(box);
    }
    __syncwarp();
  }
  if (lane == 0) pipe.finish();
}

}  // namespace kvdirect

#endif
