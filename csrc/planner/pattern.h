// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "planner/coverage.h"
#include "planner/tensor_map.h"

namespace kvdirect {

// length bytes at `remote` from a remote base go to `local` from a local base.
struct RelativeRun {
  std::uint64_t remote = 0;
  std::uint64_t local = 0;
  std::uint64_t length = 0;
  bool operator==(const RelativeRun&) const = default;
};

// What one share moves inside one block (or altogether, without a block axis), as strides that are not yet spelled
// out. Small however large the tensors are; partial blocks are expanded from it per request.
class Pattern {
 public:
  Pattern(const Component& local, const ShardSource& share);

  // Appends the atoms for `cells` token cells from `first` on (without a token axis: one cell). Spends from the budget
  // before it makes them.
  void expand(std::uint64_t first, std::uint64_t cells, std::vector<RelativeRun>& relative_runs, Budget& budget) const;

 private:
  struct Loop {
    std::uint64_t count, remote, local;  // steps, and bytes a step on both sides
  };
  struct Nest {
    std::uint64_t remote, local;
    std::vector<Loop> loops;
  };

  std::vector<Nest> _nests;  // one per combination of shared stretches
  Loop _token{1, 0, 0};
  std::uint64_t _item = 1;
};

// Sorts by remote offset and joins neighbours that are contiguous on both sides.
void coalesce(std::vector<RelativeRun>& relative_runs);

}  // namespace kvdirect
