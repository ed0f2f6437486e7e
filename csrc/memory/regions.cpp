// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "memory/regions.h"

#include <algorithm>

#include "base/error.h"
#include "wire/messages.h"

namespace kvdirect {

SharedRegions SharedRegions::of(const std::vector<Region>& regions) {
  SharedRegions shared;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const auto refuse = [i](const std::string& why) {
      return lane_error(
          "shm", why + std::to_string(i),
          {.operation = "publish", .hint = "allocate what readers on this host read with kvtransfer.empty()"});
    };
    const Region& region = regions[i];
    if (region.memory != MemoryKind::host) throw refuse("it is not host memory, region ");
    const auto memory = SharedMemory::find(region.address, region.length);
    if (!memory) throw refuse("no shared memory holds region ");
    if (!memory->sealed()) throw refuse(std::string(no_seals) + ", region ");
    auto known = std::ranges::find(shared.memories, memory);
    if (known == shared.memories.end()) {
      if (shared.memories.size() == limits::shared_memories) throw refuse("too many shared memories before region ");
      known = shared.memories.insert(known, memory);
    }
    shared.places.push_back({static_cast<std::uint32_t>(known - shared.memories.begin()),
                             static_cast<std::uint64_t>(region.address - memory->data())});
  }
  return shared;
}

}  // namespace kvdirect
