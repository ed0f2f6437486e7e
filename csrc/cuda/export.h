// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <vector>

#include "cuda/gpu.h"
#include "cuda/handles.h"

namespace kvdirect {

// Makes every region that is on the GPU, and a nonce beside them, ready for readers on this host. Throws Error(lane)
// naming a region that cannot be exported.
[[nodiscard]] std::unique_ptr<const GpuExports> export_regions(const ContextPtr& context,
                                                               const std::vector<Region>& regions, const Token& nonce);

// The GPU's UUID.
[[nodiscard]] Token uuid_of(CUdevice device);

}  // namespace kvdirect
