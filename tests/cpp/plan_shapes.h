// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "planner/plan.h"

// Maps for tests of plans.
namespace kvdirect::plan_shapes {

using kvdirect::block_extents;
using kvdirect::BlockTable;
using kvdirect::Component;
using kvdirect::Errc;
using kvdirect::Extent;
using kvdirect::Plan;
using kvdirect::Run;
using kvdirect::Selection;
using kvdirect::TensorMap;

using Ids = std::vector<std::int64_t>;
using Runs = std::vector<Run>;

struct Shape {
  std::uint64_t layers = 1, blocks = 8, heads = 2, tokens = 4, row = 16;  // row: bytes of one head of one token
  bool blocks_outside = false;                                            // of layers
  bool tokens_outside = false;                                            // of heads
  std::vector<kvdirect::OwnedRange> own_heads = {}, own_layers = {};
};

inline Component component(const Shape& s, const std::string& name = "kv", std::uint64_t offset = 0,
                           std::uint64_t parts = 1) {
  const std::uint64_t page = s.heads * s.tokens * s.row * parts;
  return {.name = name,
          .axes = {{"layer", s.layers, s.blocks_outside ? page : page * s.blocks, s.own_layers},
                   {"block", s.blocks, s.blocks_outside ? page * s.layers : page, {}},
                   {"head", s.heads, s.tokens_outside ? s.row : s.row * s.tokens, s.own_heads},
                   {"token", s.tokens, s.tokens_outside ? s.row * s.heads : s.row, {}},
                   {"element", s.row, 1, {}}},
          .dtype = "int8",
          .offset = offset};
}

inline TensorMap map_of(const Shape& shape) { return {{component(shape)}}; }

inline Plan plan_of(const TensorMap& local, std::vector<TensorMap> remotes, std::uint64_t reader = 0) {
  return Plan(local, remotes, reader);
}

inline Runs runs_of(const Plan& plan, const Ids& remote, const Ids& local, std::uint64_t start, std::uint64_t stop,
                    std::size_t shard = 0) {
  return plan.runs(shard, Selection{{remote}, {local}, start, stop});
}

inline Run run(std::uint64_t remote, std::uint64_t local, std::uint64_t length) {
  return {.remote_offset = remote, .local_offset = local, .length = length};
}

// A named axis without meaning of its own: rows of one byte cells, no blocks.
inline TensorMap rows(std::uint64_t extent, std::vector<kvdirect::OwnedRange> owned = {}, std::uint32_t group = 0) {
  return {{{.name = "w", .axes = {{"row", extent, 1, std::move(owned)}}, .dtype = "int8", .replica_group = group}}};
}

}  // namespace kvdirect::plan_shapes
