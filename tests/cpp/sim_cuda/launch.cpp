// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <atomic>
#include <cstring>
#include <memory>

#include "context.h"
#include "cuda/bulk_slots.h"
#include "kernel.h"
#include "modules.h"
#include "stream.h"
#include "tiles.h"

// cuLaunchKernel, for the three kernels there are.
namespace kvdirect::sim {

namespace {

constexpr unsigned warp = 32;
constexpr unsigned most_shared_memory = 48 << 10;

std::atomic<std::size_t> launches = 0;

void check_parameters(void* const* parameters, void* const* extra) {
  if (extra) refuse(CUDA_ERROR_NOT_SUPPORTED, "arguments in `extra` are not simulated");
  if (!parameters || !parameters[0]) refuse(CUDA_ERROR_INVALID_VALUE, "the kernel takes arguments");
}

// By value: parameters are copied at the launch.
CopyArguments read_arguments(void** parameters) {
  if (!parameters[1] || !parameters[2]) {
    refuse(CUDA_ERROR_INVALID_VALUE, "the kernel takes three arguments");
  }
  CopyArguments read{};
  std::memcpy(&read.tiles, parameters[0], sizeof read.tiles);
  std::memcpy(&read.tile_count, parameters[1], sizeof read.tile_count);
  std::memcpy(&read.units, parameters[2], sizeof read.units);
  return read;
}

void check_loaded(CUfunction handle) {
  try {
    static_cast<void>(function_of(handle));
  } catch (const Refusal&) {
    undefined("the kernel's module was unloaded before the kernel ran");
  }
}

void check_grid(const Function& function, const Grid& grid, unsigned other_dimensions, unsigned shared_memory) {
  if (grid.blocks == 0 || grid.threads == 0 || other_dimensions == 0) {
    refuse(CUDA_ERROR_INVALID_VALUE, "a grid or block of no size");
  }
  const bool bulk = function.kernel == Kernel::bulk;
  if (grid.threads > (bulk ? bulk_warps * warp : copy_threads_per_block) ||
      shared_memory > (bulk ? function.module->bulk_memory.load() : most_shared_memory)) {
    refuse(CUDA_ERROR_INVALID_VALUE, "more threads or shared memory in a block than the kernel is built for");
  }
  if (other_dimensions != 1) undefined("the copy kernel was launched with more than one dimension");
  if (grid.threads % warp != 0) undefined("the copy kernel was launched with part of a warp");
  if (bulk && shared_memory < grid.threads / warp * bulk_warp_bytes) {
    undefined("the bulk kernel was launched with less shared memory than its warps use");
  }
}

}  // namespace

std::size_t count_launches() { return launches; }

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuLaunchKernel(CUfunction handle, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                                unsigned int block_x, unsigned int block_y, unsigned int block_z,
                                unsigned int shared_memory, CUstream stream, void** parameters, void** extra) {
  return call_in_context("cuLaunchKernel", [&](Context& context) {
    const Function function = function_of(handle);
    if (&function.module->context() != &context)
      refuse(CUDA_ERROR_INVALID_HANDLE, "the function is of another context");
    const Grid grid{grid_x, block_x};
    check_grid(function, grid, grid_y * grid_z * block_y * block_z, shared_memory);
    check_parameters(parameters, extra);
    const auto own_stream = need_own_stream(context, stream);
    ++launches;
    if (function.kernel == Kernel::order) {
      const auto order = std::make_shared<kvdirect::CopyOrder>(*static_cast<const kvdirect::CopyOrder*>(parameters[0]));
      own_stream->add([&context, handle, grid, order] {
        check_loaded(handle);
        copy_order(context, grid, *order);
      });
    } else {
      own_stream->add([&context, handle, kernel = function.kernel, grid, arguments = read_arguments(parameters)] {
        check_loaded(handle);
        copy_tiles(context, kernel, grid, arguments);
      });
    }
  });
}

}  // extern "C"
