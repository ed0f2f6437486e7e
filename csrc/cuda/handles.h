// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/device_event.h"
#include "base/non_copyable.h"
#include "base/process_guard.h"
#include "cuda/copy_box.h"
#include "cuda/driver.h"

// What is had from the driver, each given back by its destructor. Destructors ignore errors: the driver may be gone, at
// the end of a process, or the device may have failed. In a fork they do nothing: the driver is the parent's.
namespace kvdirect {

// The context that the CUDA runtime, and so torch, uses on a device.
class PrimaryContext : NonCopyable {
 public:
  explicit PrimaryContext(int ordinal);
  ~PrimaryContext();

  [[nodiscard]] CUdevice device() const noexcept { return _device; }
  [[nodiscard]] CUcontext get() const noexcept { return _context; }
  [[nodiscard]] int attribute(CUdevice_attribute attribute) const;
  // False in a fork of the process that took it.
  [[nodiscard]] bool here() const noexcept { return _process.here(); }

 private:
  ProcessGuard _process;
  CUdevice _device = 0;
  CUcontext _context = nullptr;
};

using ContextPtr = std::shared_ptr<const PrimaryContext>;

// Makes a context the calling thread's, for as long as it lives. Meanwhile what the thread asks of the driver does not
// disturb another thread that captures a graph: what we do is in no graph.
class Current : NonCopyable {
 public:
  explicit Current(const PrimaryContext& context);
  ~Current();

 private:
  CUstreamCaptureMode _mode = CU_STREAM_CAPTURE_MODE_RELAXED;  // of the thread before
};

// What a context holds, once it is filled in; given back with `release`, a function of CudaDriver.
template <typename Handle, auto release>
struct Held : NonCopyable {
  explicit Held(ContextPtr of) : context(std::move(of)) {}
  ~Held() {
    if (handle == Handle{} || !context->here()) return;
    try {
      const Current current(*context);
      static_cast<void>((driver().*release)(handle));
    } catch (const Error&) {
      // The driver is gone, and everything with it.
    }
  }

  const ContextPtr context;
  Handle handle{};
};

// Does not wait for the default stream, and runs before streams of lower priority.
class CudaStream {
 public:
  explicit CudaStream(ContextPtr context);

  [[nodiscard]] CUstream get() const noexcept { return _stream.handle; }

 private:
  Held<CUstream, &CudaDriver::cuStreamDestroy> _stream;
};

// What a stream had been given when this was made.
class RecordedEvent final : public DeviceEvent {
 public:
  RecordedEvent(ContextPtr context, CUstream stream);

  [[nodiscard]] bool passed() const override;
  [[nodiscard]] CUevent get() const noexcept { return _event.handle; }

 private:
  Held<CUevent, &CudaDriver::cuEventDestroy> _event;
};

// Memory on the device.
class DeviceMemory {
 public:
  DeviceMemory(ContextPtr context, std::size_t bytes);

  [[nodiscard]] CUdeviceptr get() const noexcept { return _memory.handle; }

 private:
  Held<CUdeviceptr, &CudaDriver::cuMemFree> _memory;
};

// Host memory that the device copies from by itself.
class PinnedMemory {
 public:
  PinnedMemory(ContextPtr context, std::size_t bytes);

  [[nodiscard]] std::byte* get() const noexcept { return static_cast<std::byte*>(_memory.handle); }

 private:
  Held<void*, &CudaDriver::cuMemFreeHost> _memory;
};

// Our kernel, loaded for a device.
class CopyKernel {
 public:
  // `bulk`: the one that moves bytes in bulk. Throws Error(config) where the device cannot.
  CopyKernel(ContextPtr context, bool bulk);

  void launch(CUstream stream, unsigned blocks, CUdeviceptr tiles, unsigned tile_count, unsigned units) const;
  void launch(CUstream stream, unsigned blocks, CopyOrder& order) const;
  // Of a block.
  [[nodiscard]] unsigned warps() const noexcept { return _warps; }

 private:
  void find_bulk();

  Held<CUmodule, &CudaDriver::cuModuleUnload> _module;
  CUfunction _function = nullptr;
  CUfunction _order_function = nullptr;  // not with the bulk kernel
  unsigned _warps = 0;
  unsigned _shared_bytes = 0;  // of a block
};

// What `attribute` says of an address.
template <typename Value>
[[nodiscard]] CUresult pointer_attribute(CUpointer_attribute attribute, std::uint64_t address, Value& value) {
  return driver().cuPointerGetAttribute(&value, attribute, address);
}

}  // namespace kvdirect
