// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "base/error.h"
#include "cuda/gpu.h"

// What builds without CUDA have in place of the rest of this folder.
namespace kvdirect {

bool Gpu::built() noexcept { return false; }

std::shared_ptr<Gpu> Gpu::holding(std::uint64_t /*address*/, std::uint64_t /*length*/, GpuSettings /*settings*/) {
  throw Error(
      Errc::config, "the buffer is a GPU's memory, and this build of kvtransfer has no CUDA parts",
      {.operation = "register", .hint = "build it where nvcc and cuda.h are, or keep the buffer in host memory"});
}

}  // namespace kvdirect
