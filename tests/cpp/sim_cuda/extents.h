// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <vector>

namespace kvdirect::sim {

struct Extent {
  std::uint64_t start;
  std::uint64_t size;
};

// Of copies that run in any order: aborts if two write the same byte, or one reads what another writes. `who` says
// whose they are. Sorts them.
void check_independent(std::vector<Extent> sources, std::vector<Extent> targets, const char* who);

}  // namespace kvdirect::sim
