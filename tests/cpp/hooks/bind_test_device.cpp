// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "test_device.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

std::span<const std::byte> view(const nb::bytes& data) {
  return {reinterpret_cast<const std::byte*>(data.data()), data.size()};
}

nb::dict cuda_array(const TestMemory& memory) {
  nb::dict interface;
  interface["shape"] = nb::make_tuple(memory.bytes());
  interface["typestr"] = "|u1";
  interface["data"] = nb::make_tuple(memory.address(), false);
  interface["version"] = 3;
  return interface;
}

}  // namespace

void bind_test_device(nb::module_& module) {
  module.def("use_cuda_driver", &use_cuda_driver, "path"_a);
  nb::class_<TestMemory>(module, "DeviceBytes")
      .def(nb::init<std::size_t, unsigned, bool>(), "count"_a, "pieces"_a = 0, "exportable"_a = true)
      .def_prop_ro("address", &TestMemory::address)
      .def_prop_ro("__cuda_array_interface__", &cuda_array)
      .def(
          "write", [](TestMemory& self, std::size_t offset, const nb::bytes& data) { self.write(offset, view(data)); },
          "offset"_a, "data"_a)
      .def(
          "read",
          [](const TestMemory& self, std::size_t offset, std::size_t count) {
            const auto data = self.read(offset, count);
            return nb::bytes(data.data(), data.size());
          },
          "offset"_a, "count"_a);
  nb::class_<TestStream>(module, "DeviceStream")
      .def(nb::init<>())
      .def_prop_ro("handle", &TestStream::handle)
      .def(
          "write",
          [](TestStream& self, TestMemory& memory, std::size_t offset, const nb::bytes& data, double delay) {
            self.write(memory, offset, view(data), delay);
          },
          "memory"_a, "offset"_a, "data"_a, "delay"_a = 0.0);
}

}  // namespace kvdirect
