// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>

#include "context.h"
#include "kernel.h"
#include "registry.h"

namespace kvdirect::sim {

// Any image of CUDA code stands for the three kernels: what it holds is code for a GPU.
class Module {
 public:
  explicit Module(Context& context) : _context(context) {}

  [[nodiscard]] Context& context() const noexcept { return _context; }
  // Shared memory that the bulk kernel may be launched with; what needs no permission at first.
  std::atomic<unsigned> bulk_memory = 48 << 10;

 private:
  Context& _context;
};

[[nodiscard]] Registry<Module, CUmodule>& modules();

struct Function {
  std::shared_ptr<Module> module;
  Kernel kernel;
};
// What cuModuleGetFunction gave. Throws Refusal if its module was unloaded.
[[nodiscard]] Function function_of(CUfunction handle);

}  // namespace kvdirect::sim
