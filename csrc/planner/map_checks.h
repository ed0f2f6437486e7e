// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <string>

#include "planner/index_range.h"
#include "planner/tensor_map.h"

namespace kvdirect {

inline constexpr std::size_t max_components = 4096;
inline constexpr std::size_t max_axes = 16;
inline constexpr std::size_t max_ranges = 65536;
inline constexpr std::size_t max_name = 255;
inline constexpr std::uint64_t max_bytes = std::uint64_t{1} << 62;  // offsets and spans stay below

// Everything about a map that can be said without knowing its regions. After this no offset computed from indices
// inside the extents overflows. Throws Error(plan) naming component and axis; `whose` tells the reader which map.
void check_structure(const TensorMap& map, const std::string& whose);

// Throws Error(plan) where two components hold the same bytes, except through different block tables: engines alias
// one block pool for groups of layers, and the tables keep those apart. True if there are such tables.
bool tables_alias(const TensorMap& map, const std::string& whose);

// The axis with this name, or nullptr.
[[nodiscard]] const Axis* find_axis(const Component& component, const std::string& name) noexcept;

// Bytes from the component's offset to the end of its last cell. Only after check_structure.
[[nodiscard]] std::uint64_t span_bytes(const Component& component) noexcept;

// Do the two hold any byte together? Exact; spends from the budget.
[[nodiscard]] bool overlap(const Component& a, const Component& b, Budget& budget);

}  // namespace kvdirect
