// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <cstring>
#include <vector>

#include "context.h"
#include "extents.h"
#include "kernel.h"
#include "mappings.h"
#include "modules.h"
#include "stream.h"

// cuLaunchKernel, for the one kernel there is.
namespace kvdirect::sim {

namespace {

constexpr const char* who = "the copy kernel";
constexpr unsigned warp = 32;
constexpr unsigned most_shared_memory = 48 << 10;

struct Arguments {
  const CopyBox* boxes;
  unsigned count;
};

template <typename Row>
void for_rows(const CopyBox& box, const Row& row) {
  for (std::uint64_t plane = 0; plane < box.planes; ++plane) {
    for (std::uint64_t index = 0; index < box.rows; ++index) {
      row(box.source + index * box.source_row + plane * box.source_plane,
          box.target + index * box.target_row + plane * box.target_plane);
    }
  }
}

void check_shape(const CopyBox& box) {
  const unsigned width = box.width;
  if (width != 16 && width != 8 && width != 4 && width != 2 && width != 1) {
    undefined("a box has width " + std::to_string(width));
  }
  if (box.row_bytes % width != 0) undefined("a box's row_bytes is no multiple of its width");
  // The kernel counts items and bytes of a box in 32 bits.
  if (std::uint64_t{box.row_bytes} * box.rows * box.planes > UINT32_MAX) undefined("a box holds more than 4 GiB");
  if (box.rows == 0 || box.planes == 0) undefined("a box has no rows or no planes");
  std::uint64_t all = box.source | box.target;
  if (box.rows > 1) all |= box.source_row | box.target_row;
  if (box.planes > 1) all |= box.source_plane | box.target_plane;
  if (all % width != 0) {
    throw Fault{CUDA_ERROR_MISALIGNED_ADDRESS,
                "a box with width " + std::to_string(width) + " has an address or a step that it does not divide"};
  }
}

// Every row is checked; returns the box as the host can run it.
CopyBox reachable(const Context& context, const CopyBox& box) {
  check_shape(box);
  if (box.row_bytes == 0) return box;
  for_rows(box, [&](std::uint64_t source, std::uint64_t target) {
    static_cast<void>(reach(context, source, box.row_bytes, Access::read, who));
    static_cast<void>(reach(context, target, box.row_bytes, Access::write, who));
  });
  CopyBox shifted = box;
  shifted.source = reinterpret_cast<std::uintptr_t>(reach(context, box.source, 1, Access::read, who));
  shifted.target = reinterpret_cast<std::uintptr_t>(reach(context, box.target, 1, Access::write, who));
  return shifted;
}

void check_boxes_independent(const std::vector<CopyBox>& boxes) {
  std::vector<Extent> sources;
  std::vector<Extent> targets;
  for (const CopyBox& box : boxes) {
    if (box.row_bytes == 0) continue;
    for_rows(box, [&](std::uint64_t source, std::uint64_t target) {
      sources.push_back({source, box.row_bytes});
      targets.push_back({target, box.row_bytes});
    });
  }
  check_independent(std::move(sources), std::move(targets), who);
}

void copy_boxes(const Context& context, const Grid& grid, const Arguments& arguments) {
  if (arguments.count == 0) return;
  const std::shared_lock lock(mappings().mutex);
  const auto list = reinterpret_cast<std::uintptr_t>(arguments.boxes);
  if (list % alignof(CopyBox) != 0) throw Fault{CUDA_ERROR_MISALIGNED_ADDRESS, "the list of boxes is misaligned"};
  const std::size_t bytes = arguments.count * sizeof(CopyBox);
  std::vector<CopyBox> boxes(arguments.count);
  std::memcpy(boxes.data(), reach(context, list, bytes, Access::read, "the copy kernel's list of boxes"), bytes);
  check_boxes_independent(boxes);
  for (CopyBox& box : boxes) box = reachable(context, box);
  run_copy_kernel(grid, boxes);
}

// By value: parameters are copied at the launch.
Arguments read_arguments(void** parameters, void** extra) {
  if (extra) refuse(CUDA_ERROR_NOT_SUPPORTED, "arguments in `extra` are not simulated");
  if (!parameters || !parameters[0] || !parameters[1])
    refuse(CUDA_ERROR_INVALID_VALUE, "the kernel takes two arguments");
  Arguments read{};
  std::memcpy(&read.boxes, parameters[0], sizeof read.boxes);
  std::memcpy(&read.count, parameters[1], sizeof read.count);
  return read;
}

void check_grid(const Grid& grid, unsigned other_dimensions, unsigned shared_memory) {
  if (grid.blocks == 0 || grid.threads == 0 || other_dimensions == 0) {
    refuse(CUDA_ERROR_INVALID_VALUE, "a grid or block of no size");
  }
  if (grid.threads > copy_threads_per_block || shared_memory > most_shared_memory) {
    refuse(CUDA_ERROR_INVALID_VALUE, "more threads or shared memory in a block than the kernel is built for");
  }
  if (other_dimensions != 1) undefined("the copy kernel was launched with more than one dimension");
  if (grid.threads % warp != 0) undefined("the copy kernel was launched with part of a warp");
}

}  // namespace

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                                unsigned int block_x, unsigned int block_y, unsigned int block_z,
                                unsigned int shared_memory, CUstream stream, void** parameters, void** extra) {
  return call_in_context("cuLaunchKernel", [&](Context& context) {
    const auto module = module_of(function);
    if (&module->context() != &context) refuse(CUDA_ERROR_INVALID_HANDLE, "the function is of another context");
    const Grid grid{grid_x, block_x};
    check_grid(grid, grid_y * grid_z * block_y * block_z, shared_memory);
    const Arguments arguments = read_arguments(parameters, extra);
    need_own_stream(context, stream)->add([&context, function, grid, arguments] {
      try {
        static_cast<void>(module_of(function));
      } catch (const Refusal&) {
        undefined("the kernel's module was unloaded before the kernel ran");
      }
      copy_boxes(context, grid, arguments);
    });
  });
}

}  // extern "C"
