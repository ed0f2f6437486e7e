// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/tensor_map.h"
#include "wire/messages.h"

namespace kvdirect {

// What lets a reader in: the owner's own secret, or one reader's pass.
struct Admission {
  Bytes identity;               // whose pass; empty: the owner's secret
  std::uint64_t not_after = 0;  // of a pass: when it ends, in milliseconds since 1970
  Bytes key;

  [[nodiscard]] bool is_pass() const noexcept { return !identity.empty(); }
};

// Everything a reader needs to connect to an owner. Whoever holds one may read what the owner leases, and on lanes
// that read the owner's memory directly, more: it is a capability. What the owner keeps for itself has no end; one
// reader's, made from it, does.
struct Descriptor {
  std::uint64_t incarnation = 0;
  std::string name;
  Admission admission;
  std::string host;  // where the engine listens; numeric
  std::uint16_t port = 0;
  std::vector<std::uint64_t> region_bytes;
  TensorMap map;

  [[nodiscard]] Bytes encode() const;
  // Throws Error(codec), or Error(mismatch) for another protocol version. The map is validated against the regions.
  static Descriptor decode(BytesView bytes);
};

}  // namespace kvdirect
