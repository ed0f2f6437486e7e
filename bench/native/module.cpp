// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>

#include "python/bindings.h"
#include "yardsticks.h"

NB_MODULE(_native, module) {
  module.doc() = "The benchmark's yardsticks. Callers answer for addresses and offsets.";
  kvdirect::bind_errors(module);
  kvdirect::bind_memory_and_sockets(module);
  kvdirect::bind_ucx_gets(module);
  kvdirect::bind_planning(module);
}
