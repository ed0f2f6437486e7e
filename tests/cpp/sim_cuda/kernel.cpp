// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "kernel.h"

#include "bulk_slots.h"

// What the CUDA compiler knows by itself and the kernel's source uses.
namespace {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

thread_local Index threadIdx, blockIdx, blockDim, gridDim;

template <typename Item>
Item __ldcs(const Item* from) {
  return *from;
}

// Threads run one after the other here.
void __syncwarp() {}

}  // namespace

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Not copied for each thread either.
#define __grid_constant__ &

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wmissing-declarations"
#include "cuda/copy_kernel.cu"
#pragma GCC diagnostic pop

namespace kvdirect::sim {

namespace {

template <typename Run>
void run_threads(const Grid& grid, const Run& run) {
  gridDim = {grid.blocks, 1, 1};
  blockDim = {grid.threads, 1, 1};
  for (unsigned block = 0; block < grid.blocks; ++block) {
    for (unsigned thread = 0; thread < grid.threads; ++thread) {
      blockIdx = {block, 0, 0};
      threadIdx = {thread, 0, 0};
      run();
    }
  }
}

}  // namespace

void run_copy_kernel(Kernel kernel, const Grid& grid, std::span<const CopyTile> tiles, unsigned units) {
  const auto run = kernel == Kernel::bulk ? kvdirect_bulk_tiles : kvdirect_copy_tiles;
  run_threads(grid, [&] { run(tiles.data(), static_cast<unsigned>(tiles.size()), units); });
}

void run_copy_kernel(const Grid& grid, const CopyOrder& order) {
  run_threads(grid, [&] { kvdirect_copy_order(order); });
}

}  // namespace kvdirect::sim
