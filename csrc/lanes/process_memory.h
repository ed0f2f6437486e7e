// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lanes/host_copy.h"
#include "pull.h"

namespace kvdirect {

// Another process's memory, read with process_vm_readv.
class ProcessMemory {
 public:
  // An errno value, 0 for success.
  using Status = int;

  explicit ProcessMemory(std::uint64_t pid) noexcept : _pid(pid) {}

  [[nodiscard]] Status read(std::uint64_t address, std::span<std::byte> into) const noexcept;

  struct Pair {
    std::uint64_t incarnation = 0;
    LeaseCopy lease;
  };
  // The incarnation and one lease's words.
  [[nodiscard]] Status read_lease(std::uint64_t incarnation_address, std::uint64_t word_address,
                                  Pair& into) const noexcept;
  // A part of a pull. `regions`: where the owner's regions are in its process.
  [[nodiscard]] Status copy_runs(const PullJob& job, const std::vector<std::uint64_t>& regions,
                                 RunCursor<Run> chunk) const noexcept;

 private:
  std::uint64_t _pid;
};

}  // namespace kvdirect
