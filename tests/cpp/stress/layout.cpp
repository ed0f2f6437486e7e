// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "layout.h"

namespace kvdirect::stress::layout {

std::uint64_t Rows::place(std::uint64_t component, std::uint64_t layer, std::uint64_t block,
                          std::uint64_t token) const noexcept {
  const std::uint64_t page = component * layers + layer;
  const std::uint64_t index = outside ? page * blocks + block : block * components * layers + page;
  return (index * tokens + token) * words;
}

TensorMap Rows::map() const {
  const auto stride = [this](std::uint64_t layer, std::uint64_t block, std::uint64_t token) {
    return place(0, layer, block, token) * sizeof(std::uint64_t);
  };
  TensorMap map;
  for (std::uint64_t component = 0; component < components; ++component) {
    map.components.push_back({.name = component == 0 ? "k" : "v",
                              .axes = {{"layer", layers, stride(1, 0, 0), {}},
                                       {"block", blocks, stride(0, 1, 0), {}},
                                       {"token", tokens, stride(0, 0, 1), {}},
                                       {"element", words, sizeof(std::uint64_t), {}}},
                              .dtype = "uint64",
                              .item_bytes = sizeof(std::uint64_t),
                              .offset = place(component, 0, 0, 0) * sizeof(std::uint64_t)});
  }
  return map;
}

std::vector<std::int64_t> table_of(std::uint64_t slot) {
  std::vector<std::int64_t> table;
  for (std::uint64_t entry = 0; entry < blocks_per_slot; ++entry) {
    table.push_back(static_cast<std::int64_t>(block_of(slot, entry)));
  }
  return table;
}

}  // namespace kvdirect::stress::layout
