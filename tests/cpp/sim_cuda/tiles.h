// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include "context.h"
#include "kernel.h"

namespace kvdirect::sim {

// Of the copy kernel.
struct CopyArguments {
  CUdeviceptr tiles = 0;
  unsigned tile_count = 0;
  unsigned units = 0;
};

// The kernel, once all that it will touch is checked. Throws Fault; aborts where the kernel's rules are broken.
void copy_tiles(const Context& context, Kernel kernel, const Grid& grid, const CopyArguments& arguments);
// Likewise; changes the order.
void copy_order(const Context& context, const Grid& grid, CopyOrder& order);

}  // namespace kvdirect::sim
