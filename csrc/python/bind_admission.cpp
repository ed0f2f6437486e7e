// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/mac.h"
#include "bindings.h"
#include "wire/admission.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

void bind_admission(nb::module_& module) {
  module.def(
      "load_mac_library", [](const std::vector<std::string>& more) { return mac_library(more).name(); }, "more"_a);
  module.def(
      "descriptor_for",
      [](const nb::bytes& descriptor, const nb::bytes& identity, std::uint64_t not_after) {
        return as_python(descriptor_for(view(descriptor), view(identity), not_after));
      },
      "descriptor"_a, "identity"_a, "not_after"_a);
}

}  // namespace kvdirect
