// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

// Also read by the CUDA compiler, and shared with the GPU: plain types, no includes of our own.

namespace kvdirect {

// `planes` times `rows` rows of `row_bytes`, each at a fixed distance from the one before, on both sides. A contiguous
// run is one row; a permutation of a block's layout has rows and planes.
struct alignas(16) CopyBox {
  unsigned long long source;  // device addresses
  unsigned long long target;
  unsigned long long source_row;  // bytes from row to row
  unsigned long long target_row;
  unsigned long long source_plane;  // bytes from plane to plane
  unsigned long long target_plane;
  unsigned row_bytes;
  unsigned rows;
  unsigned planes;
  unsigned width;  // bytes of one access: 16, 8, 4, 2 or 1; divides every address, step and row_bytes
};

// Where a box is repeated: bytes from its own addresses. Blocks of a cache, for instance.
struct alignas(16) CopyBase {
  unsigned long long source;
  unsigned long long target;
};

// Every one of `boxes` at every one of `bases`; a warp takes a box at a base at a time.
struct alignas(16) CopyTile {
  const CopyBox* boxes;
  const CopyBase* bases;
  unsigned box_count;
  unsigned base_count;
  unsigned first_unit;  // how many boxes at bases the tiles before this one have
  unsigned width;       // the widest access that every base allows
};

// All that a small launch is told, in the kernel's parameters: nothing has to be copied to the device first. What the
// tiles' pointers hold counts from `bytes`.
struct alignas(16) CopyOrder {
  // Parameters have 32,764 bytes, on GPUs of compute capability 7.0 and newer with a driver of CUDA 12.1 or newer.
  unsigned char bytes[32736];
  unsigned tiles;  // where they begin in it
  unsigned tile_count;
  unsigned units;
  unsigned unused;
};
static_assert(sizeof(CopyOrder) <= 32764);

// With so many, a block takes a multiprocessor for itself (its registers are all taken), so that multiprocessors can be
// counted out, and enough loads are in flight.
inline constexpr unsigned copy_threads_per_block = 1024;
// The most bytes in one box: enough to make taking a box cheap, little enough for all warps to end together.
inline constexpr unsigned copy_box_bytes = 16384;
inline constexpr const char* copy_kernel_name = "kvdirect_copy_tiles";
inline constexpr const char* order_kernel_name = "kvdirect_copy_order";

}  // namespace kvdirect
