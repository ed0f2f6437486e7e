// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <nanobind/nanobind.h>

namespace kvdirect {

// Each component registers itself; module.cpp is the table of contents.
void bind_errors(nanobind::module_& module);
void bind_plan(nanobind::module_& module);
void bind_lease(nanobind::module_& module);
void bind_engine(nanobind::module_& module);
void bind_memory(nanobind::module_& module);

}  // namespace kvdirect
