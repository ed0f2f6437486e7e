// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <span>

namespace kvdirect {

inline std::span<const std::byte> view(const nanobind::bytes& bytes) {
  return {static_cast<const std::byte*>(bytes.data()), bytes.size()};
}

inline nanobind::bytes as_python(std::span<const std::byte> bytes) {
  return nanobind::bytes(bytes.data(), bytes.size());
}

// Each component registers itself; module.cpp is the table of contents.
void bind_errors(nanobind::module_& module);
void bind_plan(nanobind::module_& module);
void bind_lease(nanobind::module_& module);
void bind_pull(nanobind::module_& module);
void bind_engine(nanobind::module_& module);
void bind_memory(nanobind::module_& module);
void bind_admission(nanobind::module_& module);

}  // namespace kvdirect
