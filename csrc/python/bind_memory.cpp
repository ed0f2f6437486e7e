// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "bindings.h"
#include "memory/shared_memory.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

using ByteArray = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>;

// The array keeps the memory.
ByteArray shared_bytes(std::size_t bytes) {
  auto keep = [bytes] {
    const nb::gil_scoped_release unlocked;
    return std::make_unique<std::shared_ptr<SharedMemory>>(SharedMemory::make(bytes));
  }();
  auto* data = reinterpret_cast<std::uint8_t*>((*keep)->data());
  const nb::capsule owner(keep.release(),
                          [](void* raw) noexcept { delete static_cast<std::shared_ptr<SharedMemory>*>(raw); });
  return ByteArray(data, {bytes}, owner);
}

std::optional<bool> large_pages(std::uint64_t address, std::size_t length) {
  const auto memory = SharedMemory::find(reinterpret_cast<const void*>(address), length);
  return memory ? std::optional(memory->large_pages()) : std::nullopt;
}

}  // namespace

void bind_memory(nb::module_& module) {
  module.def("shared_bytes", &shared_bytes, "bytes"_a);
  module.def("large_pages", &large_pages, "address"_a, "length"_a);
}

}  // namespace kvdirect
