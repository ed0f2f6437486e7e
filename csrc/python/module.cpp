// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>

#include "bindings.h"

NB_MODULE(_core, module) {
  module.doc() = "The native core of kvtransfer. Private: use the names that kvtransfer exports.";
  kvdirect::bind_errors(module);
  kvdirect::bind_plan(module);
  kvdirect::bind_lease(module);
  kvdirect::bind_engine(module);
}
