// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "planner/index_range.h"
#include "planner/tensor_map.h"

namespace kvdirect {

// What one remote shard can give of one local component: along every global axis the indices both hold.
struct ShardSource {
  struct AxisPair {
    const Axis* local = nullptr;
    const Axis* remote = nullptr;
    std::vector<IndexOverlap> shared;  // here: local, there: remote
  };

  std::size_t shard = 0;
  const Component* remote = nullptr;
  std::vector<AxisPair> axes;  // the local component's global axes, in its order
};

using ComponentIndex = std::unordered_map<std::string_view, const Component*>;

// A map's components by name. The map must outlive it.
[[nodiscard]] ComponentIndex index_components(const TensorMap& map);

// Is the axis matched by global index (true) or addressed through a block table (false)?
[[nodiscard]] bool is_global(const Component& component, const Axis& axis) noexcept;

// The shares that together write every byte of the local component once, one of each set of replicas. Throws
// Error(mismatch) where a shard describes the component differently or none has it, Error(plan) where something is
// missing or double. The maps must have passed check_structure and outlive the result.
[[nodiscard]] std::vector<ShardSource> exact_cover(const Component& local, std::span<const ComponentIndex> remotes,
                                                   std::uint64_t reader_index, Budget& budget);

}  // namespace kvdirect
