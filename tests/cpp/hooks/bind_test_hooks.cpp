// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "test_hooks.h"

namespace kvdirect {

void bind_test_hooks(nanobind::module_& module) {
  module.def("stall_next_pull", &stall_next_pull, nanobind::arg("file"));
  module.def("spoil_next_pull", &spoil_next_pull);
  module.def("set_rdma_transports", &set_rdma_transports, nanobind::arg("chosen"));
  module.def(
      "set_cuda_regions",
      [](const std::string& kind) {
        set_cuda_regions(kind == "real"   ? CudaRegions::real
                         : kind == "host" ? CudaRegions::host
                                          : CudaRegions::claimed);
      },
      nanobind::arg("kind"));
}

}  // namespace kvdirect
