// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "memory/shared_memory.h"
#include "wire/messages.h"

namespace kvdirect {

// An owner's regions in shared memory as a reader has them: mapped read-only.
class ShmView {
 public:
  // `descriptors`: of the memories, as the owner handed them over. `region_bytes`: as its descriptor says. Throws
  // Error(lane).
  ShmView(const ShmAccess& access, std::vector<Fd> descriptors, const std::vector<std::uint64_t>& region_bytes);

  [[nodiscard]] const std::byte* region(std::uint32_t index) const noexcept { return _regions[index]; }

 private:
  std::vector<std::unique_ptr<MappedMemory>> _memories;
  std::vector<const std::byte*> _regions;
};

}  // namespace kvdirect
