// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <nanobind/nanobind.h>

namespace kvdirect {

// What pulls are compared with, written in C++ so that Python's cost per block is not what is measured.
void bind_memory_and_sockets(nanobind::module_& module);
void bind_ucx_gets(nanobind::module_& module);
void bind_planning(nanobind::module_& module);

}  // namespace kvdirect
