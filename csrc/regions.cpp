// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "regions.h"

#include <algorithm>

#include "error.h"
#include "protocol.h"

namespace kvdirect {

namespace {

Error refusal(std::size_t region, const std::string& why, const std::string& hint) {
  return {Errc::lane,
          "shm does not work: region " + std::to_string(region) + " " + why,
          {.operation = "publish", .hint = hint}};
}

std::shared_ptr<SharedMemory> memory_of(std::size_t index, const Region& region, bool adopt) {
  if (region.memory != MemoryKind::host) throw refusal(index, "is not host memory", "use another lane");
  if (auto memory = SharedMemory::find(region.address, region.length)) return memory;
  if (!adopt) {
    throw refusal(index, "is not shared memory",
                  "allocate what readers on this host read with kvtransfer.empty(), or permit to adopt it");
  }
  try {
    return SharedMemory::adopt(region.address, region.length);
  } catch (const Error& error) {
    throw refusal(index, std::string("cannot be adopted: ") + error.what(), error.context().hint);
  }
}

}  // namespace

SharedRegions SharedRegions::of(const std::vector<Region>& regions, bool adopt) {
  SharedRegions shared;
  try {
    for (std::size_t i = 0; i < regions.size(); ++i) {
      const auto memory = memory_of(i, regions[i], adopt);
      auto known = std::ranges::find(shared.memories, memory);
      if (known == shared.memories.end()) {
        known = shared.memories.insert(known, memory);
        memory->take();
      }
      shared.places.push_back({static_cast<std::uint32_t>(known - shared.memories.begin()),
                               static_cast<std::uint64_t>(regions[i].address - memory->data())});
      if (shared.memories.size() > limits::shared_memories) {
        throw refusal(i, "is in one shared memory too many", "allocate several caches in one piece");
      }
    }
  } catch (const Error&) {
    shared.give_back();
    throw;
  }
  return shared;
}

void SharedRegions::give_back() const noexcept {
  for (const auto& memory : memories) memory->give_back();
}

}  // namespace kvdirect
