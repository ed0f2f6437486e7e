// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "test_hooks.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>

namespace kvdirect {

namespace {

std::mutex mutex;
std::string stall_file;
bool stalling = false;
std::atomic<bool> spoiling{false};
std::string transports = real_rdma;
CudaRegions regions = CudaRegions::real;

// Complete when it appears: whoever waits for it may read it at once. Several processes may stall by one file.
void announce(std::uint64_t landed, std::uint64_t total) {
  const std::string fresh = stall_file + ".new-" + std::to_string(::getpid());
  std::ofstream(fresh) << landed << ' ' << total << '\n';
  std::filesystem::rename(fresh, stall_file);
}

}  // namespace

void stall_next_pull(const std::string& file) {
  const std::lock_guard lock(mutex);
  stall_file = file;
  stalling = false;
}

std::uint64_t pull_allowance(std::uint64_t landed, std::uint64_t total, std::uint64_t limit) {
  const std::lock_guard lock(mutex);
  if (stall_file.empty()) return limit;
  const std::uint64_t half = total / 2;
  if (landed < half) return std::min(limit, half - landed);
  if (!stalling) {
    announce(landed, total);
    stalling = true;
  }
  if (std::filesystem::exists(stall_file)) return 0;
  stall_file.clear();
  return limit;
}

void spoil_next_pull() { spoiling = true; }

void spoil_landed(std::byte* first) {
  if (spoiling.exchange(false)) *first ^= std::byte{1};
}

void set_rdma_transports(const std::string& chosen) {
  const std::lock_guard lock(mutex);
  transports = chosen;
}

void set_cuda_regions(CudaRegions kind) {
  const std::lock_guard lock(mutex);
  regions = kind;
}

CudaRegions cuda_regions() {
  const std::lock_guard lock(mutex);
  return regions;
}

std::string rdma_transports() {
  const std::lock_guard lock(mutex);
  return transports;
}

}  // namespace kvdirect
