// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/handles.h"

#include <utility>

#include "cuda/copy_box.h"
#include "cuda/copy_image.h"

namespace kvdirect {

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

namespace {

// For destructors: nothing may be thrown, and without a context nothing can be given back.
template <typename Action>
void release(const PrimaryContext& context, Action action) noexcept {
  if (!context.here()) return;
  try {
    const Current current(context);
    static_cast<void>(action());
  } catch (const Error&) {
    // The driver is gone, and everything with it.
  }
}

}  // namespace

CudaStream::CudaStream(ContextPtr context) : _context(std::move(context)) {
  const Current current(*_context);
  int least = 0;
  int greatest = 0;
  check_cuda(driver().cuCtxGetStreamPriorityRange(&least, &greatest), "ask for the priorities of streams");
  check_cuda(driver().cuStreamCreateWithPriority(&_stream, CU_STREAM_NON_BLOCKING, greatest), "make a stream");
}

CudaStream::~CudaStream() {
  release(*_context, [this] { return driver().cuStreamDestroy(_stream); });
}

RecordedEvent::RecordedEvent(ContextPtr context, CUstream stream) : _context(std::move(context)) {
  const Current current(*_context);
  check_cuda(driver().cuEventCreate(&_event, CU_EVENT_DISABLE_TIMING), "make an event");
  const CUresult result = driver().cuEventRecord(_event, stream);
  if (result == CUDA_SUCCESS) return;
  static_cast<void>(driver().cuEventDestroy(_event));
  check_cuda(result, "mark the stream's work");
}

RecordedEvent::~RecordedEvent() {
  release(*_context, [this] { return driver().cuEventDestroy(_event); });
}

bool RecordedEvent::passed() const {
  const Current current(*_context);
  const CUresult result = driver().cuEventQuery(_event);
  if (result == CUDA_ERROR_NOT_READY) return false;
  check_cuda(result, "do what it was given");
  return true;
}

DeviceMemory::DeviceMemory(ContextPtr context, std::size_t bytes) : _context(std::move(context)) {
  const Current current(*_context);
  check_cuda(driver().cuMemAlloc(&_address, bytes), "allocate memory on the GPU");
}

DeviceMemory::~DeviceMemory() {
  release(*_context, [this] { return driver().cuMemFree(_address); });
}

PinnedMemory::PinnedMemory(ContextPtr context, std::size_t bytes) : _context(std::move(context)) {
  const Current current(*_context);
  check_cuda(driver().cuMemHostAlloc(&_address, bytes, 0), "allocate pinned memory");
}

PinnedMemory::~PinnedMemory() {
  release(*_context, [this] { return driver().cuMemFreeHost(_address); });
}

CopyKernel::CopyKernel(ContextPtr context) : _context(std::move(context)) {
  const Current current(*_context);
  check_cuda(driver().cuModuleLoadData(&_module, kvdirect_copy_fatbin), "load the copy kernel for this GPU");
  const CUresult result = driver().cuModuleGetFunction(&_function, _module, copy_kernel_name);
  if (result == CUDA_SUCCESS) return;
  static_cast<void>(driver().cuModuleUnload(_module));
  check_cuda(result, "find the copy kernel");
}

CopyKernel::~CopyKernel() {
  release(*_context, [this] { return driver().cuModuleUnload(_module); });
}

void CopyKernel::launch(CUstream stream, unsigned blocks, CUdeviceptr tiles, unsigned tile_count,
                        unsigned units) const {
  void* arguments[] = {&tiles, &tile_count, &units};
  check_cuda(
      driver().cuLaunchKernel(_function, blocks, 1, 1, copy_threads_per_block, 1, 1, 0, stream, arguments, nullptr),
      "start the copy kernel");
}

}  // namespace kvdirect
