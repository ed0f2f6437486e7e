// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cuda/packed_tiles.h"
#include "cuda/tile_list.h"
#include "planner/plan.h"
#include "yardsticks.h"

// What lane cuda_ipc plans with, without Python around it.
namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Of a pool of so many blocks, pulled into one like it.
Plan plan_of(std::uint64_t pool, std::uint64_t block_bytes) {
  Component component;
  component.name = "k";
  component.dtype = "uint8";
  component.axes = {{"block", pool, block_bytes, {}}, {"token", 1, block_bytes, {}}, {"element", block_bytes, 1, {}}};
  const TensorMap map{{component}};
  return Plan(map, std::span(&map, 1));
}

Selection all_of(const Ids& remote, const Ids& local) {
  return {{{remote.data(), remote.size()}}, {{local.data(), local.size()}}, 0, local.size()};
}

// Seconds of each of `rounds` plans of those blocks, out of as many of `block_bytes` as `pool` says.
std::vector<double> seconds_of_plans(const Ids& remote, const Ids& local, std::uint64_t pool, std::uint64_t block_bytes,
                                     unsigned rounds) {
  const Plan plan = plan_of(pool, block_bytes);
  const Selection selection = all_of(remote, local);
  std::vector<double> seconds;
  for (unsigned i = 0; i < rounds; ++i) {
    const auto began = std::chrono::steady_clock::now();
    auto groups = plan.groups(0, selection);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    if (groups.size() != 1 || groups.front().bases.size() != local.size()) return {};
    seconds.push_back(took.count());
    plan.reuse(std::move(groups));
  }
  return seconds;
}

// Likewise, until what the first launch is told stands ready: all that comes before the driver is called.
std::vector<double> seconds_to_launch(const Ids& remote, const Ids& local, std::uint64_t pool,
                                      std::uint64_t block_bytes, unsigned rounds) {
  const Plan plan = plan_of(pool, block_bytes);
  const Selection selection = all_of(remote, local);
  BoxCache boxes({{1U << 20}, {1U << 20}});
  std::vector<std::byte> room(PackedTiles::most_bytes);
  std::vector<double> seconds;
  for (unsigned i = 0; i < rounds; ++i) {
    const auto began = std::chrono::steady_clock::now();
    GroupCursor cursor(plan, 0, selection);
    auto groups = cursor.next(GroupCursor::first_part);
    TileList tiles(groups, boxes);
    const PackedTiles packed(tiles, ~std::uint64_t{0}, room, 0);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    if (packed.units == 0) return {};
    seconds.push_back(took.count());
    plan.reuse(std::move(groups));
  }
  return seconds;
}

// A block as a pull without a plan would have it.
struct Placed {
  std::uint64_t remote, local, bytes;
};

// What this machine takes for the ids alone, warm: to multiply both of a block and write them down, checking nothing.
std::vector<double> seconds_of_products(const Ids& remote, const Ids& local, std::uint64_t block_bytes,
                                        unsigned rounds) {
  std::vector<RunGroup::Base> places(local.size());
  std::vector<double> seconds;
  std::uint64_t used = 0;
  for (unsigned i = 0; i < rounds; ++i) {
    const auto began = std::chrono::steady_clock::now();
    for (std::size_t at = 0; at < places.size(); ++at) {
      places[at] = {static_cast<std::uint64_t>(remote.data()[at]) * block_bytes,
                    static_cast<std::uint64_t>(local.data()[at]) * block_bytes};
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    used += places[i % places.size()].remote;
    seconds.push_back(took.count());
  }
  return used == 0 ? std::vector<double>{} : seconds;
}

// Likewise, to write the blocks down and have the standard library sort them by where they are read.
std::vector<double> seconds_to_sort(const Ids& remote, const Ids& local, std::uint64_t block_bytes, unsigned rounds) {
  std::vector<double> seconds;
  for (unsigned i = 0; i < rounds; ++i) {
    const auto began = std::chrono::steady_clock::now();
    std::vector<Placed> blocks;
    for (std::size_t at = 0; at < local.size(); ++at) {
      blocks.push_back({static_cast<std::uint64_t>(remote.data()[at]) * block_bytes,
                        static_cast<std::uint64_t>(local.data()[at]) * block_bytes, block_bytes});
    }
    std::ranges::sort(blocks, {}, &Placed::remote);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    if (blocks.empty()) return {};
    seconds.push_back(took.count());
  }
  return seconds;
}

}  // namespace

void bind_planning(nb::module_& module) {
  module.def("seconds_of_plans", &seconds_of_plans, "remote"_a, "local"_a, "pool"_a, "block_bytes"_a, "rounds"_a);
  module.def("seconds_of_products", &seconds_of_products, "remote"_a, "local"_a, "block_bytes"_a, "rounds"_a);
  module.def("seconds_to_sort", &seconds_to_sort, "remote"_a, "local"_a, "block_bytes"_a, "rounds"_a);
  module.def("seconds_to_launch", &seconds_to_launch, "remote"_a, "local"_a, "pool"_a, "block_bytes"_a, "rounds"_a);
}

}  // namespace kvdirect
