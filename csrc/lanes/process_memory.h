// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

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

 private:
  std::uint64_t _pid;
};

// Where a pull's copying has got to.
class RunCopier {
 public:
  // `regions`: where the owner's regions are in its process.
  RunCopier(const PullJob& job, const std::vector<std::uint64_t>& regions) noexcept : _job(job), _regions(regions) {}

  // Copies at least one and about `limit` bytes. An errno value, 0 for success.
  [[nodiscard]] ProcessMemory::Status copy(std::uint64_t pid, std::uint64_t limit) noexcept;
  [[nodiscard]] bool complete() const noexcept { return _run == _job.runs.size(); }
  [[nodiscard]] std::uint64_t copied() const noexcept { return _copied; }

 private:
  void advance(std::uint64_t bytes) noexcept;

  const PullJob& _job;
  const std::vector<std::uint64_t>& _regions;
  std::size_t _run = 0;
  std::uint64_t _inside = 0;
  std::uint64_t _copied = 0;
};

}  // namespace kvdirect
