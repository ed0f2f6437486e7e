// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

// Also read by the CUDA compiler, and shared with the GPU: plain types, no includes of our own.

namespace kvdirect {

// What one warp copies: `planes` times `rows` rows of `row_bytes`, each at a fixed distance from the one before, on
// both sides. A contiguous run is one row; a permutation of a block's layout has rows and planes.
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

// With so many, a block takes an SM for itself, so that SMs can be counted out.
inline constexpr unsigned copy_threads_per_block = 512;
// The most bytes in one box: enough to make taking a box cheap, little enough for all warps to end together.
inline constexpr unsigned copy_box_bytes = 16384;
inline constexpr const char* copy_kernel_name = "kvdirect_copy_boxes";

}  // namespace kvdirect
