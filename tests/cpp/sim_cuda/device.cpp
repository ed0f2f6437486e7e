// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "context.h"

// What the simulated GPU says of itself: a small one that can do all that the lane asks for, but fabric handles.
namespace kvdirect::sim {

namespace {

constexpr std::array<unsigned char, 16> uuid = {'k', 'v', 'd', 'i', 'r', 'e', 'c', 't', '-', 's', 'i', 'm', 0, 0, 0, 0};

int setting(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

int attribute_value(CUdevice_attribute attribute, unsigned gpu) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 8;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return setting("KVDIRECT_SIM_CUDA_CAPABILITY", 9);
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return 227 << 10;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return 0;
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING: return setting("KVDIRECT_SIM_CUDA_WRITES_ORDERING", 0);
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS:
      return setting("KVDIRECT_SIM_CUDA_FLUSH_OPTIONS", CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST);
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 2048;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID: return 0;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return static_cast<int>(gpu) + 1;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID: return 0;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: return 0;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED: return 1;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS: return 0;
    default:
      say("device attribute " + std::to_string(attribute) + " is not simulated; add it in device.cpp");
      refuse(CUDA_ERROR_INVALID_VALUE, "unknown attribute");
  }
}

}  // namespace

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuDeviceGet(CUdevice* device, int ordinal) {
  return call("cuDeviceGet", [&] {
    if (!device) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the device");
    *device = context_of(static_cast<CUdevice>(ordinal)).device();
  });
}

CUresult CUDAAPI cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", [&] {
    if (!count) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the count");
    *count = count_devices();
  });
}

CUresult CUDAAPI cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice from, CUdevice to) {
  return call("cuDeviceGetP2PAttribute", [&] {
    if (!value) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the value");
    if (context_of(from).gpu() == context_of(to).gpu()) refuse(CUDA_ERROR_INVALID_DEVICE, "that is one GPU");
    const Link link = link_between_gpus();
    switch (attribute) {
      case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED: *value = link == Link::none ? 0 : 1; break;
      case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED: *value = link == Link::nvlink ? 1 : 0; break;
      case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK: *value = link == Link::nvlink ? 0 : 1; break;
      default: refuse(CUDA_ERROR_INVALID_VALUE, "unknown attribute");
    }
  });
}

CUresult CUDAAPI cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return call("cuDeviceGetAttribute", [&] {
    if (!value) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the value");
    *value = attribute_value(attribute, context_of(device).gpu());
  });
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid* out, CUdevice device) {
  return call("cuDeviceGetUuid", [&] {
    if (!out) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the UUID");
    std::memcpy(out->bytes, uuid.data(), uuid.size());
    out->bytes[15] = static_cast<char>(context_of(device).gpu());
  });
}

// Nothing but this process writes here, and in order.
CUresult CUDAAPI cuFlushGPUDirectRDMAWrites(CUflushGPUDirectRDMAWritesTarget target,
                                            CUflushGPUDirectRDMAWritesScope scope) {
  return call_in_context("cuFlushGPUDirectRDMAWrites", [&](Context& /*context*/) {
    if (target != CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX ||
        (scope != CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER &&
         scope != CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_ALL_DEVICES)) {
      refuse(CUDA_ERROR_INVALID_VALUE, "unknown target or scope");
    }
  });
}

// Nothing is ever captured here; what a thread asked for is given back to it.
CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  thread_local CUstreamCaptureMode current = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return call("cuThreadExchangeStreamCaptureMode", [&] {
    if (!mode || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) refuse(CUDA_ERROR_INVALID_VALUE, "unknown mode");
    std::swap(*mode, current);
  });
}

}  // extern "C"
