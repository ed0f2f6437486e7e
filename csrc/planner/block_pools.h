// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "planner/plan.h"

namespace kvdirect {

// begin, begin + 1, ... up to end, which is not of them. Lists of stretches ascend, with a gap from each to the next.
struct Stretch {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// Where the blocks that one table names lie in one region: block i begins i strides behind `start`, and holds the same
// pieces as every other. No piece reaches into the next block's stride, so only blocks without gaps touch.
struct BlockPool {
  std::uint32_t region = 0;
  std::optional<std::uint32_t> table;  // none: its one block is always meant, components without blocks
  std::uint64_t stride = 0;
  std::uint64_t blocks = 0;
  std::string component;  // the first of those whose bytes these are
  std::uint64_t start = 0;
  std::vector<Stretch> pieces;  // bytes of a block
  std::uint64_t reach = 0;      // where this pool and those before it in the region end

  [[nodiscard]] bool without_gaps() const noexcept { return pieces.front().end == stride; }
};

// In order of region and start; as many as the map's shape asks for, however many blocks there are.
[[nodiscard]] std::vector<BlockPool> block_pools(const TensorMap& map);

// The block ids of some tables, which may grow.
class BlockIds {
 public:
  // Takes in what was added to each table since the last call; negative ids are holes. Throws Error(plan) naming a
  // table that is missing, or an id that a pool does not have; of no more use after that. `ranges`: blocks of each
  // table that were not named one by one, in any order.
  void add(std::span<const BlockPool> pools, std::span<const BlockTable> added,
           std::span<const std::vector<Stretch>> ranges = {});
  // How long each table was so far, and how many ranges it had.
  [[nodiscard]] std::span<const std::size_t> entries() const noexcept { return _entries; }
  [[nodiscard]] std::span<const std::size_t> ranges() const noexcept { return _ranges; }
  // Which blocks of a pool are named.
  [[nodiscard]] std::span<const Stretch> of(const BlockPool& pool) const noexcept;

 private:
  void check(const BlockPool& pool, std::span<const BlockTable> added) const;

  std::vector<std::size_t> _entries;
  std::vector<std::size_t> _ranges;
  std::vector<std::vector<Stretch>> _ids;
};

}  // namespace kvdirect
