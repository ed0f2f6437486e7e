// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor_map.h"

namespace kvdirect {

// One registered memory allocation. Whoever registered it keeps it alive until the engine is closed.
struct Region {
  std::byte* address = nullptr;
  std::uint64_t length = 0;
  MemoryKind memory = MemoryKind::host;
};

// What publish() fixed: never changes afterwards, so it is shared without a lock.
struct Published {
  std::vector<Region> regions;
  TensorMap map;
};

}  // namespace kvdirect
