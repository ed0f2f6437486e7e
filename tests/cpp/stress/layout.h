// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine.h"

// What caches look like: every lease slot has blocks of its own, and the two sides order layers and blocks differently,
// so that a pull is many runs. A row is one token of one layer of one component.
namespace kvdirect::stress::layout {

inline constexpr std::uint64_t slots = 3;
inline constexpr std::uint64_t blocks_per_slot = 32;  // 2 MiB: a pull of them all uses every connection of a session
inline constexpr std::uint64_t tokens = 16;           // of a block
inline constexpr std::uint64_t layers = 2;
inline constexpr std::uint64_t components = 2;
inline constexpr std::uint64_t words = 128;  // of a row
inline constexpr std::uint64_t positions = blocks_per_slot * tokens;
inline constexpr std::uint64_t row_bytes = words * sizeof(std::uint64_t);
inline constexpr std::uint64_t slot_bytes = positions * layers * components * row_bytes;

// Rows that lie in a destination or a cache of `blocks` blocks. `outside`: the layers lie outside the blocks.
struct Rows {
  std::uint64_t blocks = 0;
  bool outside = false;

  [[nodiscard]] TensorMap map() const;
  // The place of a row in words.
  [[nodiscard]] std::uint64_t place(std::uint64_t component, std::uint64_t layer, std::uint64_t block,
                                    std::uint64_t token) const noexcept;
};

// The block that has entry `entry` of a slot's table: far from its neighbours, so that runs do not merge.
[[nodiscard]] constexpr std::uint64_t block_of(std::uint64_t slot, std::uint64_t entry) noexcept {
  return entry * slots + slot;
}
[[nodiscard]] std::vector<std::int64_t> table_of(std::uint64_t slot);

}  // namespace kvdirect::stress::layout
