// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "context.h"
#include "mappings.h"

// Memory as cuMemAlloc and cuMemHostAlloc give it.
namespace kvdirect::sim {

namespace {

constexpr unsigned known_host_flags =
    CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;

std::uintptr_t allocate(const Context& context, Kind kind, std::size_t size, unsigned gpus) {
  if (size == 0) refuse(CUDA_ERROR_INVALID_VALUE, "0 bytes were asked for");
  const auto memory = Memory::make(kind, context.gpu(), size, CU_MEM_HANDLE_TYPE_NONE);
  const std::unique_lock lock(mappings().mutex);
  return add_mapping(memory, {.kind = kind, .owner = &context, .readers = gpus, .writers = gpus});
}

// Does not wait for work in flight: CUDA promises no such wait, so work that still comes finds no memory.
void free_allocation(Kind kind, std::uint64_t address) {
  const std::unique_lock lock(mappings().mutex);
  const auto found = mappings().table.find(address);
  if (found == mappings().table.end() || found->second.kind != kind) {
    refuse(CUDA_ERROR_INVALID_VALUE, hex(address) + " was not allocated so, or is freed already");
  }
  found->second.memory->mark_freed();
  drop_mapping(found);
}

}  // namespace

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuMemAlloc(CUdeviceptr* address, size_t size) {
  return call_in_context("cuMemAlloc", [&](const Context& context) {
    if (!address) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the address");
    *address = allocate(context, Kind::plain, size, context.gpu_bit());
  });
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
  return call_in_context("cuMemFree", [&](const Context&) { free_allocation(Kind::plain, address); });
}

CUresult CUDAAPI cuMemHostAlloc(void** address, size_t size, unsigned int flags) {
  return call_in_context("cuMemHostAlloc", [&](const Context& context) {
    if (!address) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the address");
    if ((flags & ~known_host_flags) != 0) refuse(CUDA_ERROR_INVALID_VALUE, "unknown flags " + hex(flags));
    // Write-combined memory has another address on the GPU than on the host.
    const unsigned gpus = (flags & CU_MEMHOSTALLOC_WRITECOMBINED) != 0 ? 0 : ~0U;
    *address = reinterpret_cast<void*>(allocate(context, Kind::host, size, gpus));
  });
}

CUresult CUDAAPI cuMemFreeHost(void* address) {
  return call_in_context(
      "cuMemFreeHost", [&](const Context&) { free_allocation(Kind::host, reinterpret_cast<std::uintptr_t>(address)); });
}

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr* base, size_t* size, CUdeviceptr address) {
  return call_in_context("cuMemGetAddressRange", [&](const Context&) {
    const std::shared_lock lock(mappings().mutex);
    const auto found = find_mapping(address);
    if (found == mappings().table.end() || found->second.on_host()) {
      refuse(CUDA_ERROR_NOT_FOUND, hex(address) + " is in no device memory");
    }
    if (base) *base = found->first;
    if (size) *size = found->second.size;
  });
}

}  // extern "C"
