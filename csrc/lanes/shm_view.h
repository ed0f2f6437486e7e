// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "board.h"
#include "fd.h"
#include "protocol.h"
#include "shared_memory.h"

namespace kvdirect {

// An owner's shared memory as a reader has it: the board and the regions, mapped read-only. It outlives its owner, so
// whether the owner is there is asked separately.
class ShmView {
 public:
  // Visits the owner and maps what it hands over. `region_bytes`: as the owner's descriptor says. Throws Error(lane).
  ShmView(const ShmAccess& access, const std::vector<std::uint64_t>& region_bytes,
          std::chrono::steady_clock::time_point deadline);

  [[nodiscard]] const Board::Head& head() const noexcept { return *_head; }
  [[nodiscard]] std::span<const LeaseWord> words() const noexcept { return _words; }
  [[nodiscard]] const std::byte* region(std::uint32_t index) const noexcept { return _regions[index]; }
  // The owner's process still holds the connection over which it handed its memory over.
  [[nodiscard]] bool owner_alive() const noexcept;

 private:
  Fd _visit;
  std::unique_ptr<MappedMemory> _board;
  std::vector<std::unique_ptr<MappedMemory>> _memories;
  const Board::Head* _head = nullptr;
  std::span<const LeaseWord> _words;
  std::vector<const std::byte*> _regions;
};

}  // namespace kvdirect
