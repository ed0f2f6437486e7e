// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/handles.h"

#include <algorithm>
#include <string>
#include <utility>

#include "cuda/bulk_slots.h"
#include "cuda/copy_box.h"
#include "cuda/copy_image.h"

namespace kvdirect {

namespace {
constexpr unsigned warp = 32;
}

PrimaryContext::PrimaryContext(int ordinal) {
  check_cuda(driver().cuDeviceGet(&_device, ordinal), "find the GPU");
  check_cuda(driver().cuDevicePrimaryCtxRetain(&_context, _device), "take the GPU's context");
}

PrimaryContext::~PrimaryContext() {
  if (here()) static_cast<void>(driver().cuDevicePrimaryCtxRelease(_device));
}

int PrimaryContext::attribute(CUdevice_attribute attribute) const {
  int value = 0;
  check_cuda(driver().cuDeviceGetAttribute(&value, attribute, _device), "ask about the GPU");
  return value;
}

Current::Current(const PrimaryContext& context) {
  check_cuda(driver().cuCtxPushCurrent(context.get()), "make the GPU's context current");
  static_cast<void>(driver().cuThreadExchangeStreamCaptureMode(&_mode));
}

Current::~Current() {
  CUcontext ours = nullptr;
  static_cast<void>(driver().cuThreadExchangeStreamCaptureMode(&_mode));
  static_cast<void>(driver().cuCtxPopCurrent(&ours));
}

CudaStream::CudaStream(ContextPtr context) : _stream(std::move(context)) {
  const Current current(*_stream.context);
  int least = 0;
  int greatest = 0;
  check_cuda(driver().cuCtxGetStreamPriorityRange(&least, &greatest), "ask for the priorities of streams");
  check_cuda(driver().cuStreamCreateWithPriority(&_stream.handle, CU_STREAM_NON_BLOCKING, greatest), "make a stream");
}

RecordedEvent::RecordedEvent(ContextPtr context, CUstream stream) : _event(std::move(context)) {
  const Current current(*_event.context);
  check_cuda(driver().cuEventCreate(&_event.handle, CU_EVENT_DISABLE_TIMING), "make an event");
  check_cuda(driver().cuEventRecord(_event.handle, stream), "mark the stream's work");
}

bool RecordedEvent::passed() const {
  const Current current(*_event.context);
  const CUresult result = driver().cuEventQuery(_event.handle);
  if (result == CUDA_ERROR_NOT_READY) return false;
  check_cuda(result, "do what it was given");
  return true;
}

DeviceMemory::DeviceMemory(ContextPtr context, std::size_t bytes) : _memory(std::move(context)) {
  const Current current(*_memory.context);
  check_cuda(driver().cuMemAlloc(&_memory.handle, bytes), "allocate memory on the GPU");
}

PinnedMemory::PinnedMemory(ContextPtr context, std::size_t bytes) : _memory(std::move(context)) {
  const Current current(*_memory.context);
  check_cuda(driver().cuMemHostAlloc(&_memory.handle, bytes, 0), "allocate pinned memory");
}

CopyKernel::CopyKernel(ContextPtr context, bool bulk) : _module(std::move(context)) {
  const Current current(*_module.context);
  check_cuda(driver().cuModuleLoadData(&_module.handle, kvdirect_copy_fatbin), "load the copy kernel for this GPU");
  if (bulk) {
    find_bulk();
    return;
  }
  check_cuda(driver().cuModuleGetFunction(&_function, _module.handle, copy_kernel_name), "find the copy kernel");
  check_cuda(driver().cuModuleGetFunction(&_order_function, _module.handle, order_kernel_name),
             "find the copy kernel of small launches");
  _warps = copy_threads_per_block / warp;
}

void CopyKernel::find_bulk() {
  const auto refuse = [](const std::string& why, const std::string& status = {}) {
    return Error(Errc::config, "cuda_copy=\"bulk\": " + why,
                 {.operation = "register", .status = status, .hint = "take cuda_copy=\"kernel\""});
  };
  const PrimaryContext& gpu = *_module.context;
  const int major = gpu.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  const int minor = gpu.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  if (major < bulk_capability) {
    throw refuse("expected a GPU of compute capability " + std::to_string(bulk_capability) +
                 ".0 or newer, this one has " + std::to_string(major) + "." + std::to_string(minor));
  }
  const CUresult result = driver().cuModuleGetFunction(&_function, _module.handle, bulk_kernel_name);
  if (result != CUDA_SUCCESS) {
    throw refuse("this build of kvtransfer has no such kernel for this GPU", cuda_status(result));
  }
  const auto memory = static_cast<unsigned>(gpu.attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN));
  _warps = std::min(bulk_warps, memory / bulk_warp_bytes);
  _shared_bytes = _warps * bulk_warp_bytes;
  check_cuda(driver().cuFuncSetAttribute(_function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                         static_cast<int>(_shared_bytes)),
             "take a multiprocessor's shared memory");
}

void CopyKernel::launch(CUstream stream, unsigned blocks, CUdeviceptr tiles, unsigned tile_count,
                        unsigned units) const {
  void* arguments[] = {&tiles, &tile_count, &units};
  check_cuda(
      driver().cuLaunchKernel(_function, blocks, 1, 1, _warps * warp, 1, 1, _shared_bytes, stream, arguments, nullptr),
      "start the copy kernel");
}

void CopyKernel::launch(CUstream stream, unsigned blocks, CopyOrder& order) const {
  void* arguments[] = {&order};
  check_cuda(driver().cuLaunchKernel(_order_function, blocks, 1, 1, copy_threads_per_block, 1, 1, 0, stream, arguments,
                                     nullptr),
             "start the copy kernel of small launches");
}

}  // namespace kvdirect
