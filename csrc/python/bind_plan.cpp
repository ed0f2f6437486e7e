// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "by_value.h"
#include "id_tables.h"
#include "planner/plan.h"
#include "planner/tensor_map.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

using Table = nb::ndarray<nb::numpy, std::uint64_t, nb::ndim<2>>;

nb::tuple owned_tuple(const Axis& axis) {
  nb::list ranges;
  for (const auto& range : axis.owned) ranges.append(nb::make_tuple(range.start, range.length, range.step));
  return nb::tuple(ranges);
}

// Block tables as whoever plans gave them.
IdTables id_tables(nb::handle tables, const char* name) {
  return {tables, name, "plan", nb::module_::import_("kvtransfer.arrays").attr("int_tables")};
}

// rows x columns numbers as a NumPy array that owns them.
Table table_of(std::vector<std::uint64_t>&& numbers, std::size_t columns) {
  const std::size_t rows = numbers.size() / columns;
  auto* kept = new std::vector<std::uint64_t>(std::move(numbers));
  const nb::capsule owner(kept, [](void* data) noexcept { delete static_cast<std::vector<std::uint64_t>*>(data); });
  return Table(kept->data(), {rows, columns}, owner);
}

Table runs(const Plan& plan, std::size_t shard, nb::handle remote, nb::handle local, std::uint64_t start,
           std::uint64_t stop) {
  IdTables theirs = id_tables(remote, "remote");
  IdTables ours = id_tables(local, "local");
  const Selection selection{theirs.take_views(), ours.take_views(), start, stop};
  std::vector<std::uint64_t> numbers;
  {
    const nb::gil_scoped_release released;
    const auto found = plan.runs(shard, selection);
    numbers.reserve(found.size() * 5);
    for (const Run& run : found) {
      numbers.insert(numbers.end(),
                     {run.remote_region, run.remote_offset, run.local_region, run.local_offset, run.length});
    }
  }
  return table_of(std::move(numbers), 5);
}

Table extents(const TensorMap& map, nb::handle tables) {
  IdTables ids = id_tables(tables, "tables");
  const auto spans = ids.take_views();
  std::vector<std::uint64_t> numbers;
  {
    const nb::gil_scoped_release released;
    for (const Extent& extent : block_extents(map, spans)) {
      numbers.insert(numbers.end(), {extent.region, extent.offset, extent.length});
    }
  }
  return table_of(std::move(numbers), 3);
}

void bind_maps(nb::module_& module) {
  using OwnedTuples = std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>>;

  nb::enum_<MemoryKind>(module, "MemoryKind", "Where a component's bytes live.")
      .value("HOST", MemoryKind::host)
      .value("CUDA", MemoryKind::cuda);

  nb::class_<Axis>(module, "Axis", "One named axis of a component.")
      .def(
          "__init__",
          [](Axis* self, std::string name, std::uint64_t extent, std::uint64_t stride, const nb::iterable& owned) {
            std::vector<OwnedRange> ranges;
            for (const nb::handle item : owned) {
              const auto [start, length, step] = nb::cast<OwnedTuples::value_type>(item);
              ranges.push_back({start, length, step});
            }
            new (self) Axis{std::move(name), extent, stride, std::move(ranges)};
          },
          "name"_a, "extent"_a, "stride"_a, "owned"_a = nb::tuple())
      .def_ro("name", &Axis::name)
      .def_ro("extent", &Axis::extent)
      .def_ro("stride", &Axis::stride)
      .def_prop_ro("owned", owned_tuple)
      .def(ByValue({"name", "extent", "stride", "owned"}));

  nb::class_<Component>(module, "Component", "A named part of what an engine caches.")
      .def(nb::init<std::string, std::vector<Axis>, std::string, std::uint32_t, std::uint32_t, std::uint32_t,
                    std::uint32_t, std::uint64_t, std::uint32_t, MemoryKind, std::uint32_t>(),
           "name"_a, "axes"_a, nb::kw_only(), "dtype"_a, "item_bytes"_a, "elements_per_item"_a = 1,
           "tokens_per_cell"_a = 1, "region"_a = 0, "offset"_a = 0, "table"_a = 0, "memory"_a = MemoryKind::host,
           "replica_group"_a = 0)
      .def_ro("name", &Component::name)
      .def_prop_ro("axes", [](const Component& component) { return nb::tuple(nb::cast(component.axes)); })
      .def_ro("dtype", &Component::dtype)
      .def_ro("item_bytes", &Component::item_bytes)
      .def_ro("elements_per_item", &Component::elements_per_item)
      .def_ro("tokens_per_cell", &Component::tokens_per_cell)
      .def_ro("region", &Component::region)
      .def_ro("offset", &Component::offset)
      .def_ro("table", &Component::table)
      .def_ro("memory", &Component::memory)
      .def_ro("replica_group", &Component::replica_group)
      .def(ByValue({"name", "axes", "dtype", "item_bytes", "elements_per_item", "tokens_per_cell", "region", "offset",
                    "table", "memory", "replica_group"}));

  nb::class_<TensorMap>(module, "TensorMap", "Everything one engine offers or wants.")
      .def(nb::init<std::vector<Component>>(), "components"_a)
      .def_prop_ro("components", [](const TensorMap& map) { return nb::tuple(nb::cast(map.components)); })
      .def("encode", [](const TensorMap& map) { return as_python(map.encode()); })
      .def_static(
          "decode", [](const nb::bytes& data) { return TensorMap::decode(view(data)); }, "data"_a)
      .def(
          "validate",
          [](const TensorMap& map, const std::vector<std::uint64_t>& region_bytes) { map.validate(region_bytes); },
          "region_bytes"_a)
      .def(ByValue({"components"}));
}

}  // namespace

void bind_plan(nb::module_& module) {
  bind_maps(module);
  nb::class_<Plan>(module, "Plan", "How bytes get from one set of remote shards into the local map.")
      .def(nb::init<const TensorMap&, const std::vector<TensorMap>&, std::uint64_t>(), "local"_a, "remotes"_a,
           "reader_index"_a = 0)
      .def("runs", runs, "shard"_a, "remote"_a, "local"_a, "start"_a, "stop"_a,
           "Rows of (remote region, remote offset, local region, local offset, length), all in bytes.")
      .def("summary", &Plan::summary)
      .def_prop_ro("shards", &Plan::shards);
  module.def("block_extents", extents, "map"_a, "tables"_a,
             "Rows of (region, offset, length): all bytes of the given blocks, sorted and merged.");
}

}  // namespace kvdirect
