// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "pull.h"

namespace kvdirect {

// A pull as Python holds it. A shared_ptr itself would lie in a table of nanobind's, which costs more to keep.
struct PullHandle {
  std::shared_ptr<Pull> pull;
  // (the other engine's name, what has to live as long as this).
  nanobind::object whose;
};

}  // namespace kvdirect
