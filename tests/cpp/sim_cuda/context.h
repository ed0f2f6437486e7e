// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "call.h"

namespace kvdirect::sim {

class Stream;

// One GPU that this process sees, and its primary context, the only one it has.
class Context {
 public:
  Context(CUdevice device, unsigned gpu) : _device(device), _gpu(gpu) {}

  // As this process numbers it.
  [[nodiscard]] CUdevice device() const noexcept { return _device; }
  // As all processes number it.
  [[nodiscard]] unsigned gpu() const noexcept { return _gpu; }
  [[nodiscard]] unsigned gpu_bit() const noexcept { return 1U << _gpu; }
  [[nodiscard]] CUcontext handle() const noexcept;

  void retain();
  void release();
  [[nodiscard]] unsigned references() const noexcept { return _references; }

  // Stream 0.
  [[nodiscard]] std::shared_ptr<Stream> default_stream();

  // A failure on the GPU: every later call in this context returns it.
  void fail(const Fault& fault);
  [[nodiscard]] CUresult error() const noexcept { return _error; }
  // Throws Refusal with the failure, if there was one.
  void check() const;

 private:
  void end();

  const CUdevice _device;
  const unsigned _gpu;
  std::atomic<unsigned> _references = 0;
  std::atomic<CUresult> _error = CUDA_SUCCESS;
  std::mutex _mutex;
  std::shared_ptr<Stream> _default_stream;
};

// The calling thread's. Throws Refusal where there is none, it has ended, or it failed.
[[nodiscard]] Context& current_context();
// Throws Refusal where this process sees no such GPU.
[[nodiscard]] Context& context_of(CUdevice device);
// Null: this process does not see that GPU.
[[nodiscard]] Context* context_of_gpu(unsigned gpu);

[[nodiscard]] std::size_t retained_contexts();
// Of GPUs that this process sees.
[[nodiscard]] int count_devices();

// What lies between two GPUs.
enum class Link { nvlink, pcie, none };
[[nodiscard]] Link link_between_gpus();
// Throws Refusal: memory of another GPU cannot be mapped without access to it, whether this process sees it or not.
void check_reach(const Context& context, unsigned gpu);

}  // namespace kvdirect::sim
