// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include "context.h"
#include "registry.h"

namespace kvdirect::sim {

// Any image of CUDA code stands for the one kernel: what it holds is code for a GPU.
class Module {
 public:
  explicit Module(Context& context) : _context(context) {}

  [[nodiscard]] Context& context() const noexcept { return _context; }

 private:
  Context& _context;
};

[[nodiscard]] Registry<Module, CUmodule>& modules();

// The module that a function of cuModuleGetFunction is in. Throws Refusal if it was unloaded.
[[nodiscard]] std::shared_ptr<Module> module_of(CUfunction function);

}  // namespace kvdirect::sim
