// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/tensor_map.h"

#include "base/error.h"
#include "base/fields.h"
#include "planner/map_checks.h"

namespace kvdirect {

namespace {

constexpr std::uint8_t version = 1;

// The fewest bytes each can take, so that a count can be held against the bytes left.
constexpr std::size_t range_bytes = 3 * 8;
constexpr std::size_t axis_bytes = 2 + 2 * 8 + 4;
constexpr std::size_t component_bytes = 2 * 2 + 4 + 5 * 4 + 8 + 4 + 1;

}  // namespace

void fields(auto& io, Is<OwnedRange> auto& range) {
  io.u64(range.start, "range start");
  io.u64(range.length, "range length");
  io.u64(range.step, "range step");
}

void fields(auto& io, Is<Axis> auto& axis) {
  io.string(axis.name, "axis name", max_name);
  io.u64(axis.extent, "axis extent");
  io.u64(axis.stride, "axis stride");
  list(io, axis.owned, "number of owned ranges", max_ranges, range_bytes);
}

void fields(auto& io, Is<Component> auto& component) {
  io.string(component.name, "component name", max_name);
  io.string(component.dtype, "dtype", max_name);
  io.u32(component.item_bytes, "item bytes");
  io.u32(component.elements_per_item, "elements per item");
  io.u32(component.tokens_per_cell, "tokens per cell");
  io.u32(component.region, "region");
  io.u64(component.offset, "offset");
  io.u32(component.table, "table");
  io.choice(component.memory, MemoryKind::cuda, "memory kind");
  io.u32(component.replica_group, "replica group");
  list(io, component.axes, "number of axes", max_axes, axis_bytes);
}

void fields(auto& io, Is<TensorMap> auto& map) {
  std::uint8_t found = version;
  io.u8(found, "version");
  io.require(found == version, "version", "is " + std::to_string(found) + ", expected " + std::to_string(version));
  list(io, map.components, "number of components", max_components, component_bytes);
}

void TensorMap::validate(std::span<const std::uint64_t> region_bytes) const {
  const std::string whose = "the tensor map";
  check_structure(*this, whose);
  const auto bad = [](const Component& component, const std::string& problem) {
    throw Error(Errc::plan, "component '" + component.name + "': " + problem, {.operation = "check tensor map"});
  };
  for (const auto& component : components) {
    if (component.region >= region_bytes.size()) {
      bad(component, "region " + std::to_string(component.region) + " does not exist, " +
                         std::to_string(region_bytes.size()) + " are registered");
    }
    const std::uint64_t size = region_bytes[component.region];
    const std::uint64_t end = component.offset + span_bytes(component);
    if (end > size) {
      bad(component, "its cells end at byte " + std::to_string(end) + " of region " + std::to_string(component.region) +
                         ", which has " + std::to_string(size) + " bytes");
    }
  }
  static_cast<void>(tables_alias(*this, whose));
}

std::vector<std::byte> TensorMap::encode() const {
  // What decode would refuse must not leave this machine.
  check_structure(*this, "the tensor map");
  return encoded(*this);
}

TensorMap TensorMap::decode(std::span<const std::byte> bytes) { return decoded<TensorMap>(bytes, "tensor map"); }

}  // namespace kvdirect
