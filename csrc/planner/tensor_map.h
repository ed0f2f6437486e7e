// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kvdirect {

enum class MemoryKind : std::uint8_t { host = 0, cuda = 1 };

// Global indices start, start+step, ... (length of them), held at consecutive local indices.
struct OwnedRange {
  std::uint64_t start = 0;
  std::uint64_t length = 0;
  std::uint64_t step = 1;
  bool operator==(const OwnedRange&) const = default;
};

// One named axis of a component. Two names have a meaning of their own: "block" is addressed through a block
// table, and "token" is the position inside a block. Every other axis ("layer", "head", "element", ...) is global:
// equal global indices on two sides are the same thing.
struct Axis {
  std::string name;
  std::uint64_t extent = 0;       // local indices
  std::uint64_t stride = 0;       // bytes between neighbours
  std::vector<OwnedRange> owned;  // empty: global index == local index
  bool operator==(const Axis&) const = default;
};

// A named part of what an engine caches: k, v, scales, a latent, a state.
struct Component {
  std::string name;
  std::vector<Axis> axes;
  std::string dtype;                    // compared between peers, never interpreted
  std::uint32_t item_bytes = 1;         // bytes of one cell of the innermost axis
  std::uint32_t elements_per_item = 1;  // more than 1 for packed types (two fp4 in a byte)
  std::uint32_t tokens_per_cell = 1;    // more than 1 where one cell covers several tokens
  std::uint32_t region = 0;             // index of the registered memory it lives in
  std::uint64_t offset = 0;             // bytes from the region's start to local index 0 of every axis
  std::uint32_t table = 0;              // which block table of a pull addresses its block axis
  MemoryKind memory = MemoryKind::host;
  std::uint32_t replica_group = 0;  // equal and not 0: shards that hold the same bytes
  bool operator==(const Component&) const = default;
};

// Everything one engine (one rank) offers or wants.
struct TensorMap {
  std::vector<Component> components;
  bool operator==(const TensorMap&) const = default;

  // Throws Error(plan) naming component and axis: duplicate names, zero extents, ranges that do not add up to the
  // extent, overlapping cells, a component that leaves its region.
  void validate(std::span<const std::uint64_t> region_bytes) const;

  [[nodiscard]] std::vector<std::byte> encode() const;
  // Throws Error(codec); never reads past the end, never allocates more than the input warrants.
  static TensorMap decode(std::span<const std::byte> bytes);
};

}  // namespace kvdirect
