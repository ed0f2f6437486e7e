// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "lease.h"
#include "memory/regions.h"
#include "planner/block_pools.h"
#include "wire/messages.h"

namespace kvdirect {

// Which bytes each live lease lets its readers have: the map's pools, worked out once, and a lease's blocks, as they
// were when somebody last asked for one that was not known. Any thread.
class LeaseExtents {
 public:
  explicit LeaseExtents(std::shared_ptr<LeaseTable> leases) : _leases(std::move(leases)) {}

  // Whether every run lies inside the leased blocks; `published` is always the same. False for a lease that is not
  // granted. Throws Error(plan) for blocks that the map does not have.
  bool covers(const Published& published, LeaseRef lease, std::span<const WireRun> runs);
  // Forgets leases that ended.
  void sweep();

 private:
  struct Entry {
    std::uint64_t epoch = 0;
    std::shared_ptr<const BlockIds> ids;
  };
  // Null: nobody asked yet.
  std::shared_ptr<const BlockIds> known(LeaseRef lease);

  std::shared_ptr<LeaseTable> _leases;
  std::mutex _mutex;
  std::optional<std::vector<BlockPool>> _pools;  // stays once it is there, and it is wherever ids are
  std::unordered_map<std::uint32_t, Entry> _entries;
};

}  // namespace kvdirect
