// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/tensor_map.h"
#include "wire/messages.h"

namespace kvdirect {

// Everything a reader needs to connect to an owner. Whoever holds one may read what the owner leases, and on lanes
// that read the owner's memory directly, more: it is a capability.
struct Descriptor {
  std::uint64_t incarnation = 0;
  std::string name;
  Bytes admission;
  std::string host;  // where the engine listens; numeric
  std::uint16_t port = 0;
  std::vector<std::uint64_t> region_bytes;
  TensorMap map;

  [[nodiscard]] Bytes encode() const;
  // Throws Error(codec), or Error(mismatch) for another protocol version. The map is validated against the regions.
  static Descriptor decode(BytesView bytes);
};

}  // namespace kvdirect
