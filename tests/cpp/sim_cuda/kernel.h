// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <span>

#include "cuda/copy_box.h"

namespace kvdirect::sim {

// By loads and stores, or in bulk through shared memory; what to copy is told in device memory, or in parameters
// (order).
enum class Kernel { plain, bulk, order };

struct Grid {
  unsigned blocks = 0;
  unsigned threads = 0;  // of a block
};

// Runs a kernel's own source, thread after thread.
void run_copy_kernel(Kernel kernel, const Grid& grid, std::span<const CopyTile> tiles, unsigned units);
void run_copy_kernel(const Grid& grid, const CopyOrder& order);

// Of all kernels, in this process.
[[nodiscard]] std::size_t count_launches();
// Copies from pinned memory to the GPU.
[[nodiscard]] std::size_t count_uploads();

}  // namespace kvdirect::sim
