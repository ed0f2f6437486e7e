// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cuda.h>

#include <string>

#include "base/error.h"

namespace kvdirect {

// Functions of the CUDA driver that are used, each as cuda.h of the build declares it.
#define KVDIRECT_CUDA_FUNCTIONS(X)          \
  X(cuInit)                                 \
  X(cuGetErrorName)                         \
  X(cuGetErrorString)                       \
  X(cuDeviceGet)                            \
  X(cuDeviceGetCount)                       \
  X(cuDeviceGetAttribute)                   \
  X(cuDeviceGetUuid)                        \
  X(cuDeviceGetP2PAttribute)                \
  X(cuDevicePrimaryCtxRetain)               \
  X(cuDevicePrimaryCtxRelease)              \
  X(cuCtxPushCurrent)                       \
  X(cuCtxPopCurrent)                        \
  X(cuCtxGetStreamPriorityRange)            \
  X(cuStreamCreateWithPriority)             \
  X(cuStreamDestroy)                        \
  X(cuThreadExchangeStreamCaptureMode)      \
  X(cuStreamSynchronize)                    \
  X(cuStreamWaitEvent)                      \
  X(cuLaunchHostFunc)                       \
  X(cuEventCreate)                          \
  X(cuEventRecord)                          \
  X(cuEventQuery)                           \
  X(cuEventDestroy)                         \
  X(cuMemAlloc)                             \
  X(cuMemFree)                              \
  X(cuMemHostAlloc)                         \
  X(cuMemFreeHost)                          \
  X(cuMemcpyHtoDAsync)                      \
  X(cuMemcpyDtoHAsync)                      \
  X(cuMemGetAddressRange)                   \
  X(cuPointerGetAttribute)                  \
  X(cuIpcGetMemHandle)                      \
  X(cuIpcOpenMemHandle)                     \
  X(cuIpcCloseMemHandle)                    \
  X(cuMemCreate)                            \
  X(cuMemGetAllocationGranularity)          \
  X(cuMemRetainAllocationHandle)            \
  X(cuMemGetAllocationPropertiesFromHandle) \
  X(cuMemExportToShareableHandle)           \
  X(cuMemImportFromShareableHandle)         \
  X(cuMemAddressReserve)                    \
  X(cuMemAddressFree)                       \
  X(cuMemMap)                               \
  X(cuMemUnmap)                             \
  X(cuMemSetAccess)                         \
  X(cuMemRelease)                           \
  X(cuFlushGPUDirectRDMAWrites)             \
  X(cuModuleLoadData)                       \
  X(cuModuleGetFunction)                    \
  X(cuModuleUnload)                         \
  X(cuFuncSetAttribute)                     \
  X(cuLaunchKernel)

// The driver of this host: loaded on first use and never unloaded, so that one build serves hosts with and without
// GPUs. Its functions are called as driver().cuInit(0).
struct CudaDriver {
#define KVDIRECT_DECLARE(function) decltype(&::function) function = nullptr;
  KVDIRECT_CUDA_FUNCTIONS(KVDIRECT_DECLARE)
#undef KVDIRECT_DECLARE
#if CUDA_VERSION >= 13000
  decltype(&::cuMemcpyBatchAsync) cuMemcpyBatchAsync = nullptr;  // null: the driver is older than CUDA 13.0
#endif
};

// Throws Error(lane) where there is no driver, it is too old, or it finds no GPU.
[[nodiscard]] const CudaDriver& driver();

// For tests: another library than the system's, before the first call of driver().
void use_cuda_driver(const std::string& path);

// "CUDA_ERROR_OUT_OF_MEMORY: out of memory"
[[nodiscard]] std::string cuda_status(CUresult result);

// Throws Error(transport) saying what was attempted.
void check_cuda(CUresult result, const char* what);

}  // namespace kvdirect
