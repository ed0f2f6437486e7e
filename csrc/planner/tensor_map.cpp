// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/tensor_map.h"

#include "base/codec.h"
#include "base/error.h"
#include "planner/map_checks.h"

namespace kvdirect {

namespace {

constexpr std::uint8_t version = 1;

// The fewest bytes each can take, so that a count can be held against the bytes left.
constexpr std::size_t range_bytes = 3 * 8;
constexpr std::size_t axis_bytes = 2 + 2 * 8 + 4;
constexpr std::size_t component_bytes = 2 * 2 + 4 + 5 * 4 + 8 + 4 + 1;

void write(Writer& writer, const Axis& axis) {
  writer.string(axis.name);
  writer.u64(axis.extent);
  writer.u64(axis.stride);
  writer.u32(static_cast<std::uint32_t>(axis.owned.size()));
  for (const auto& range : axis.owned) {
    writer.u64(range.start);
    writer.u64(range.length);
    writer.u64(range.step);
  }
}

Axis read_axis(Reader& reader) {
  Axis axis;
  axis.name = reader.string("axis name", max_name);
  axis.extent = reader.u64("axis extent");
  axis.stride = reader.u64("axis stride");
  axis.owned.resize(reader.count("number of owned ranges", max_ranges, range_bytes));
  for (auto& range : axis.owned) {
    range.start = reader.u64("range start");
    range.length = reader.u64("range length");
    range.step = reader.u64("range step");
  }
  return axis;
}

void write(Writer& writer, const Component& component) {
  writer.string(component.name);
  writer.string(component.dtype);
  writer.u32(component.item_bytes);
  writer.u32(component.elements_per_item);
  writer.u32(component.tokens_per_cell);
  writer.u32(component.region);
  writer.u64(component.offset);
  writer.u32(component.table);
  writer.u8(static_cast<std::uint8_t>(component.memory));
  writer.u32(component.replica_group);
  writer.u32(static_cast<std::uint32_t>(component.axes.size()));
  for (const auto& axis : component.axes) write(writer, axis);
}

Component read_component(Reader& reader) {
  Component component;
  component.name = reader.string("component name", max_name);
  component.dtype = reader.string("dtype", max_name);
  component.item_bytes = reader.u32("item bytes");
  component.elements_per_item = reader.u32("elements per item");
  component.tokens_per_cell = reader.u32("tokens per cell");
  component.region = reader.u32("region");
  component.offset = reader.u64("offset");
  component.table = reader.u32("table");
  const std::uint8_t memory = reader.u8("memory kind");
  if (memory > static_cast<std::uint8_t>(MemoryKind::cuda)) {
    reader.fail("memory kind", "is " + std::to_string(memory) + ", which is none");
  }
  component.memory = static_cast<MemoryKind>(memory);
  component.replica_group = reader.u32("replica group");
  component.axes.resize(reader.count("number of axes", max_axes, axis_bytes));
  for (auto& axis : component.axes) axis = read_axis(reader);
  return component;
}

}  // namespace

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
  Writer writer;
  writer.u8(version);
  writer.u32(static_cast<std::uint32_t>(components.size()));
  for (const auto& component : components) write(writer, component);
  return writer.take();
}

TensorMap TensorMap::decode(std::span<const std::byte> bytes) {
  Reader reader(bytes, "tensor map");
  const std::uint8_t found = reader.u8("version");
  if (found != version) {
    reader.fail("version", "is " + std::to_string(found) + ", expected " + std::to_string(version));
  }
  TensorMap map;
  map.components.resize(reader.count("number of components", max_components, component_bytes));
  for (auto& component : map.components) component = read_component(reader);
  reader.finish();
  return map;
}

}  // namespace kvdirect
