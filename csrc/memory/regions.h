// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory/shared_memory.h"
#include "planner/tensor_map.h"

namespace kvdirect {

class GpuExports;

// One registered memory allocation. Whoever registered it keeps it alive until the engine is closed.
struct Region {
  std::byte* address = nullptr;
  std::uint64_t length = 0;
  MemoryKind memory = MemoryKind::host;
};

// Which shared memory the regions lie in, for readers that map it.
struct SharedRegions {
  struct Place {
    std::uint32_t memory = 0;  // index
    std::uint64_t offset = 0;
  };
  std::vector<std::shared_ptr<SharedMemory>> memories;
  std::vector<Place> places;  // one per region

  // Throws Error(lane) naming a region that is not in shared memory.
  static SharedRegions of(const std::vector<Region>& regions);
};

// What publish() fixed: never changes afterwards, so it is shared without a lock.
struct Published {
  std::vector<Region> regions;
  TensorMap map;
  std::optional<SharedRegions> shared;       // nullopt: not all of it is, or not permitted
  std::shared_ptr<const GpuExports> on_gpu;  // null: there is none, it cannot be exported, or not permitted
};

}  // namespace kvdirect
