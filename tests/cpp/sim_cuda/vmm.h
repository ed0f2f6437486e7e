// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>

#include "call.h"
#include "memory.h"

namespace kvdirect::sim {

// Bytes that every size and address of VMM memory is a multiple of.
inline constexpr std::size_t granularity = std::size_t{2} << 20;

// Handles of VMM memory. A mapping keeps the memory too, so that a handle may be released before it, and be had again
// from it.

// With one reference.
CUmemGenericAllocationHandle add_handle(std::shared_ptr<const Memory> memory);
// One reference more, to a handle that may have been released meanwhile.
void retain_handle(CUmemGenericAllocationHandle handle, const std::shared_ptr<const Memory>& memory);
// Aborts if there is no such handle: CUDA does not define what happens then.
void release_handle(CUmemGenericAllocationHandle handle);
// Throws Refusal(CUDA_ERROR_INVALID_VALUE).
[[nodiscard]] std::shared_ptr<const Memory> memory_of(CUmemGenericAllocationHandle handle);

[[nodiscard]] std::size_t count_handles();
[[nodiscard]] std::size_t count_reservations();

}  // namespace kvdirect::sim
