// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <cstdlib>
#include <cstring>

#include "context.h"
#include "mappings.h"

namespace kvdirect::sim {

namespace {

template <typename Value>
void put(void* data, Value value) {
  std::memcpy(data, &value, sizeof value);
}

// As this process numbers it. Throws Refusal where it does not see that GPU.
int device_of(const Mapping& mapping) {
  const Context* context = context_of_gpu(mapping.memory->gpu());
  if (!context) refuse(CUDA_ERROR_INVALID_DEVICE, "the memory is on a GPU that this process does not see");
  return context->device();
}

CUcontext context_handle(const Mapping& mapping) { return mapping.owner ? mapping.owner->handle() : nullptr; }

void put_attribute(void* data, CUpointer_attribute attribute, std::uintptr_t start, const Mapping& mapping) {
  const bool vmm = mapping.kind == Kind::vmm;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: return put(data, context_handle(mapping));
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return put<unsigned>(data, mapping.on_host() ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: return put(data, 0);
    case CU_POINTER_ATTRIBUTE_MAPPED: return put(data, 1);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return put(data, device_of(mapping));
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: return put<int>(data, mapping.kind == Kind::plain);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return put<std::uint64_t>(data, vmm ? mapping.memory->handle_types() : 0);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: return put<CUdeviceptr>(data, vmm ? mapping.addresses.start : start);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: return put<std::size_t>(data, vmm ? mapping.addresses.size : mapping.size);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: return put<unsigned long long>(data, mapping.number);
    default:
      say("pointer attribute " + std::to_string(attribute) + " is not simulated; add it in pointer_attribute.cpp");
      refuse(CUDA_ERROR_INVALID_VALUE, "unknown attribute");
  }
}

}  // namespace

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr address) {
  return call("cuPointerGetAttribute", [&] {
    if (!data) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the value");
    static const bool strict = std::getenv("KVDIRECT_SIM_CUDA_POINTERS_NEED_CONTEXT") != nullptr;
    if (strict) static_cast<void>(current_context());
    const std::shared_lock lock(mappings().mutex);
    const auto found = need_mapping(address);
    put_attribute(data, attribute, found->first, found->second);
  });
}

}  // extern "C"
