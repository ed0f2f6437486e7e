// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "lease.h"
#include "memory/regions.h"
#include "planner/plan.h"
#include "wire/messages.h"

namespace kvdirect {

// Which bytes each live lease lets its readers have, worked out once per lease. Control thread only.
class LeaseExtents {
 public:
  explicit LeaseExtents(std::shared_ptr<LeaseTable> leases) : _leases(std::move(leases)) {}

  // Whether every run lies inside the leased blocks. False for a lease that is not granted.
  bool covers(const Published& published, LeaseRef lease, std::span<const WireRun> runs);
  // Forgets leases that ended.
  void sweep();

 private:
  struct Entry {
    std::uint64_t epoch = 0;
    std::vector<Extent> extents;
  };
  bool refresh(const Published& published, LeaseRef lease);

  std::shared_ptr<LeaseTable> _leases;
  std::unordered_map<std::uint32_t, Entry> _entries;
};

}  // namespace kvdirect
