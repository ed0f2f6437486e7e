// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <vector>

#include "cuda/gpu.h"
#include "cuda/handles.h"

namespace kvdirect {

// Maps what an owner exports for the GPU of `context`, and reads its nonce through the mapping. Throws Error(lane).
[[nodiscard]] std::shared_ptr<const GpuView> import_regions(const ContextPtr& context, const CudaAccess& access,
                                                            std::vector<Fd> descriptors,
                                                            const std::vector<std::uint64_t>& region_bytes);

}  // namespace kvdirect
