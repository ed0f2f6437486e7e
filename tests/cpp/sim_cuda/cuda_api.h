// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

// Everything else in this library is hidden, so that a process may also hold a real driver.
#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop
