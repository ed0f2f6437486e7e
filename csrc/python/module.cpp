// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>

#include "bindings.h"

#ifdef KVDIRECT_TEST_HOOKS
namespace kvdirect {
void bind_test_hooks(nanobind::module_& module);
void bind_test_device(nanobind::module_& module);
}  // namespace kvdirect
#endif

NB_MODULE(_core, module) {
  module.doc() = "The native core of kvtransfer. Private: use the names that kvtransfer exports.";
#ifdef NDEBUG
  // At interpreter exit an application's globals may still hold engines; that is no leak worth a page of warnings.
  nanobind::set_leak_warnings(false);
#endif
  kvdirect::bind_errors(module);
  kvdirect::bind_plan(module);
  kvdirect::bind_lease(module);
  kvdirect::bind_engine(module);
  kvdirect::bind_memory(module);
  kvdirect::bind_admission(module);
#ifdef KVDIRECT_TEST_HOOKS
  kvdirect::bind_test_hooks(module);
#ifdef KVDIRECT_WITH_CUDA
  kvdirect::bind_test_device(module);
#endif
#endif
}
