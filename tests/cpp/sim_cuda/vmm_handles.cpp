// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <fcntl.h>

#include <mutex>
#include <unordered_map>

#include "context.h"
#include "mappings.h"
#include "vmm.h"

// VMM memory as such: made, exported as a file descriptor, imported, released.
namespace kvdirect::sim {

namespace {

struct Held {
  std::shared_ptr<const Memory> memory;
  unsigned references;
};

struct Handles {
  std::mutex mutex;
  std::unordered_map<CUmemGenericAllocationHandle, Held> held;
  CUmemGenericAllocationHandle next = 0x7c05'0000'0000;
};

Handles& handles() {
  static auto& all = *new Handles;
  return all;
}

// Throws Refusal; returns the GPU.
unsigned check_properties(const CUmemAllocationProp* properties) {
  if (!properties) refuse(CUDA_ERROR_INVALID_VALUE, "no properties");
  if (properties->type != CU_MEM_ALLOCATION_TYPE_PINNED) refuse(CUDA_ERROR_INVALID_VALUE, "the type must be pinned");
  if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    refuse(CUDA_ERROR_NOT_SUPPORTED, "only memory on a GPU is simulated");
  }
  const Context& context = context_of(static_cast<CUdevice>(properties->location.id));
  if ((properties->requestedHandleTypes & CU_MEM_HANDLE_TYPE_FABRIC) != 0) {
    refuse(CUDA_ERROR_NOT_PERMITTED, "there is no fabric");
  }
  if ((properties->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0) {
    refuse(CUDA_ERROR_NOT_SUPPORTED, "of handle types, only file descriptors are simulated");
  }
  return context.gpu();
}

void check_handle_type(CUmemAllocationHandleType type) {
  if (type == CU_MEM_HANDLE_TYPE_FABRIC) refuse(CUDA_ERROR_NOT_PERMITTED, "there is no fabric");
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    refuse(CUDA_ERROR_INVALID_VALUE, "the handle type must be exactly one");
  }
}

CUmemAllocationProp properties_of(const Memory& memory) {
  const Context* context = context_of_gpu(memory.gpu());
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = static_cast<CUmemAllocationHandleType>(memory.handle_types());
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, context ? context->device() : 0};
  return properties;
}

}  // namespace

CUmemGenericAllocationHandle add_handle(std::shared_ptr<const Memory> memory) {
  const std::lock_guard lock(handles().mutex);
  const auto handle = handles().next;
  handles().next += 16;
  handles().held.emplace(handle, Held{std::move(memory), 1});
  return handle;
}

void retain_handle(CUmemGenericAllocationHandle handle, const std::shared_ptr<const Memory>& memory) {
  const std::lock_guard lock(handles().mutex);
  ++handles().held.try_emplace(handle, Held{memory, 0}).first->second.references;
}

void release_handle(CUmemGenericAllocationHandle handle) {
  const std::lock_guard lock(handles().mutex);
  const auto found = handles().held.find(handle);
  if (found == handles().held.end()) undefined("cuMemRelease of " + hex(handle) + ", which is no handle any more");
  if (--found->second.references == 0) handles().held.erase(found);
}

std::shared_ptr<const Memory> memory_of(CUmemGenericAllocationHandle handle) {
  const std::lock_guard lock(handles().mutex);
  const auto found = handles().held.find(handle);
  if (found == handles().held.end()) {
    refuse(CUDA_ERROR_INVALID_VALUE, hex(handle) + " is no memory handle, or was released");
  }
  return found->second.memory;
}

std::size_t count_handles() {
  const std::lock_guard lock(handles().mutex);
  return handles().held.size();
}

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size, const CUmemAllocationProp* properties,
                             unsigned long long flags) {
  return call("cuMemCreate", [&] {
    if (!handle || flags != 0) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the handle, or flags");
    const unsigned gpu = check_properties(properties);
    if (size == 0 || size % granularity != 0) refuse(CUDA_ERROR_INVALID_VALUE, "the size must be a multiple of 2 MiB");
    *handle = add_handle(Memory::make(Kind::vmm, gpu, size, static_cast<unsigned>(properties->requestedHandleTypes)));
  });
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle) {
  return call("cuMemRelease", [&] { release_handle(handle); });
}

CUresult CUDAAPI cuMemGetAllocationGranularity(size_t* out, const CUmemAllocationProp* properties,
                                               CUmemAllocationGranularity_flags option) {
  return call("cuMemGetAllocationGranularity", [&] {
    if (!out || (option != CU_MEM_ALLOC_GRANULARITY_MINIMUM && option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)) {
      refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the value, or an unknown option");
    }
    static_cast<void>(check_properties(properties));
    *out = granularity;
  });
}

CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  return call("cuMemRetainAllocationHandle", [&] {
    if (!handle) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the handle");
    const std::shared_lock lock(mappings().mutex);
    const Mapping& mapping = need_mapping(reinterpret_cast<std::uintptr_t>(address))->second;
    if (mapping.kind != Kind::vmm) refuse(CUDA_ERROR_INVALID_VALUE, "the memory there was not mapped with cuMemMap");
    retain_handle(mapping.handle, mapping.memory);
    *handle = mapping.handle;
  });
}

CUresult CUDAAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* properties,
                                                        CUmemGenericAllocationHandle handle) {
  return call("cuMemGetAllocationPropertiesFromHandle", [&] {
    if (!properties) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the properties");
    *properties = properties_of(*memory_of(handle));
  });
}

CUresult CUDAAPI cuMemExportToShareableHandle(void* out, CUmemGenericAllocationHandle handle,
                                              CUmemAllocationHandleType type, unsigned long long flags) {
  return call("cuMemExportToShareableHandle", [&] {
    if (!out || flags != 0) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the handle, or flags");
    check_handle_type(type);
    const auto memory = memory_of(handle);
    if ((memory->handle_types() & static_cast<unsigned>(type)) == 0) {
      refuse(CUDA_ERROR_INVALID_VALUE, "the memory was not made to be exported so");
    }
    const int fd = fcntl(memory->fd(), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) refuse(CUDA_ERROR_OUT_OF_MEMORY, "no descriptor is left");
    *static_cast<int*>(out) = fd;
  });
}

CUresult CUDAAPI cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* given,
                                                CUmemAllocationHandleType type) {
  return call("cuMemImportFromShareableHandle", [&] {
    if (!handle) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the handle");
    check_handle_type(type);
    const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(given));
    auto memory = Memory::adopt(kvdirect::Fd(fcntl(fd, F_DUPFD_CLOEXEC, 0)));
    if (!memory || memory->kind() != Kind::vmm) {
      refuse(CUDA_ERROR_INVALID_VALUE, "descriptor " + std::to_string(fd) + " is no memory of the simulated GPU");
    }
    *handle = add_handle(std::move(memory));
  });
}

}  // extern "C"
