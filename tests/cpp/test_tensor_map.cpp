// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "check.h"
#include "planner/tensor_map.h"

using kvdirect::Axis;
using kvdirect::Component;
using kvdirect::Errc;
using kvdirect::Error;
using kvdirect::MemoryKind;
using kvdirect::TensorMap;

namespace {

// 2 layers, 4 blocks, 2 heads, 8 tokens, 16 elements of 2 bytes, blocks outside heads.
Component planar(std::string name, std::uint64_t offset) {
  return {.name = std::move(name),
          .axes = {{"layer", 2, 4 * 1024, {{4, 2, 3}}},
                   {"block", 4, 1024, {}},
                   {"head", 2, 256, {{6, 1, 1}, {1, 1, 1}}},
                   {"token", 8, 32, {}},
                   {"element", 16, 2, {}}},
          .dtype = "bfloat16",
          .item_bytes = 2,
          .offset = offset};
}

TensorMap example() {
  TensorMap map{{planar("k", 0), planar("v", 512)}};
  map.components[1].memory = MemoryKind::cuda;
  map.components[1].replica_group = 7;
  map.components[1].tokens_per_cell = 4;
  map.components[1].elements_per_item = 2;
  map.components[1].table = 3;
  return map;
}

void validate(const TensorMap& map, std::uint64_t bytes = 8192) {
  const std::uint64_t regions[] = {bytes};
  map.validate(regions);
}

// The example with one thing changed in component k.
template <typename Change>
TensorMap changed(Change change) {
  TensorMap map{{planar("k", 0), planar("v", 512)}};
  change(map.components[0]);
  return map;
}

}  // namespace

TEST(map_survives_its_encoding) {
  const TensorMap map = example();
  CHECK(TensorMap::decode(map.encode()) == map);
  CHECK(TensorMap::decode(TensorMap{}.encode()) == TensorMap{});
}

TEST(map_prefixes_do_not_decode) {
  const auto bytes = example().encode();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    // A copy of exactly this size, so that a sanitizer sees a read past it.
    const std::vector<std::byte> prefix(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK_THROWS(TensorMap::decode(prefix), Errc::codec);
  }
  auto longer = bytes;
  longer.push_back(std::byte{0});
  CHECK_THROWS_WITH(TensorMap::decode(longer), Errc::codec, "1 bytes are left");
}

TEST(map_damage_decodes_or_is_refused) {
  const auto bytes = example().encode();
  std::size_t decoded = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (unsigned mask = 1; mask < 256; ++mask) {
      auto damaged = bytes;
      damaged[at] ^= static_cast<std::byte>(mask);
      try {
        const TensorMap map = TensorMap::decode(damaged);
        ++decoded;
        CHECK(!(map == example()));
        try {
          validate(map);
        } catch (const Error& error) {
          CHECK(error.code() == Errc::plan);
        }
      } catch (const Error& error) {
        CHECK(error.code() == Errc::codec);
      }
    }
  }
  CHECK(decoded > 0);
}

TEST(map_names_another_version) {
  auto bytes = example().encode();
  bytes[0] = std::byte{9};
  CHECK_THROWS_WITH(TensorMap::decode(bytes), Errc::codec, "version is 9, expected 1");
}

TEST(map_counts_are_not_believed) {
  // Version, then 4 billion components in no bytes at all.
  std::vector<std::byte> bytes(5, std::byte{0xff});
  bytes[0] = std::byte{1};
  CHECK_THROWS_WITH(TensorMap::decode(bytes), Errc::codec, "number of components");
}

TEST(map_accepts_what_fits) {
  validate({{planar("k", 0), planar("v", 512)}});
  // Two groups of layers that share one pool of blocks through their own tables.
  TensorMap aliased{{planar("a", 0), planar("b", 0)}};
  aliased.components[1].table = 1;
  validate(aliased);
  // Interleaved element by element.
  TensorMap woven{{planar("k", 0), planar("v", 2)}};
  for (auto& component : woven.components) {
    for (auto& axis : component.axes) axis.stride *= 2;
    component.axes[4].stride = 4;
  }
  validate(woven, 16384);
}

TEST(map_refuses_bad_geometry) {
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.axes[2].extent = 0; })), Errc::plan, "axis 'head'");
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.name = "v"; })), Errc::plan, "used twice");
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.axes[2].name = "layer"; })), Errc::plan, "named twice");
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.axes[4].stride = 1; })), Errc::plan, "cells overlap");
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.axes[3].stride = 0; })), Errc::plan, "axis 'token'");
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.item_bytes = 0; })), Errc::plan, "item_bytes");
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.region = 1; })), Errc::plan, "region 1 does not exist");
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.offset = 256; })), Errc::plan, "overlaps component");
  CHECK_THROWS_WITH(validate(example(), 8191), Errc::plan, "component 'v': its cells end at byte 8192");
}

TEST(map_refuses_bad_ranges) {
  const auto ranges = [](std::vector<kvdirect::OwnedRange> owned) {
    return changed([&](Component& c) { c.axes[2].owned = std::move(owned); });
  };
  validate(ranges({{8, 2, 5}}));
  CHECK_THROWS_WITH(validate(ranges({{0, 1, 1}})), Errc::plan, "hold 1 indices, the extent is 2");
  CHECK_THROWS_WITH(validate(ranges({{0, 3, 1}})), Errc::plan, "hold more than 2 indices");
  CHECK_THROWS_WITH(validate(ranges({{0, 1, 1}, {0, 1, 1}})), Errc::plan, "index 0 is owned twice");
  CHECK_THROWS_WITH(validate(ranges({{0, 2, 0}})), Errc::plan, "has step 0");
  CHECK_THROWS_WITH(validate(ranges({{0, 0, 1}, {0, 2, 1}})), Errc::plan, "is empty");
  CHECK_THROWS(validate(ranges({{0, 2, ~0ULL}})), Errc::plan);
  CHECK_THROWS(validate(ranges({{~0ULL, 2, 1}})), Errc::plan);
  CHECK_THROWS(validate(ranges({{0, ~0ULL, 1}, {0, 3, 1}})), Errc::plan);
  CHECK_THROWS_WITH(validate(changed([](Component& c) { c.axes[1].owned = {{0, 4, 1}}; })), Errc::plan,
                    "addressed through a block table");
  // Interleaved ranges that meet in one index.
  CHECK_THROWS_WITH(validate(changed([](Component& c) {
                      c.axes[3].name = "row";
                      c.axes[3].owned = {{0, 4, 3}, {1, 4, 4}};
                    })),
                    Errc::plan, "index 9 is owned twice");
}

TEST(map_arithmetic_does_not_wrap) {
  CHECK_THROWS(validate(changed([](Component& c) { c.axes[0].extent = ~0ULL, c.axes[0].owned = {}; })), Errc::plan);
  CHECK_THROWS(validate(changed([](Component& c) { c.axes[0].stride = ~0ULL; })), Errc::plan);
  CHECK_THROWS(validate(changed([](Component& c) { c.axes[0].stride = 1ULL << 63; })), Errc::plan);
  CHECK_THROWS(validate(changed([](Component& c) { c.offset = ~0ULL - 100; })), Errc::plan);
  CHECK_THROWS(validate(changed([](Component& c) {
                 c.axes[0].extent = 1ULL << 40;
                 c.axes[0].stride = 1ULL << 40;
                 c.axes[0].owned = {};
               })),
               Errc::plan);
}
