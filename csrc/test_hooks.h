// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// For tests that need a pull to stand still half-way. Only in builds with KVDIRECT_TEST_HOOKS, which take the rest from
// tests/cpp/hooks; released ones have none.
namespace kvdirect {

inline const std::string real_rdma = "ib";

#ifdef KVDIRECT_TEST_HOOKS
// The next pull that this process copies (cma) or serves (message) stops half-way, writes "landed total" (bytes) to
// `file`, and goes on when the file is gone. Once for each call.
void stall_next_pull(const std::string& file);

// How many bytes of a pull may move now, `limit` at most; 0: it stalls.
[[nodiscard]] std::uint64_t pull_allowance(std::uint64_t landed, std::uint64_t total, std::uint64_t limit);

// The next pull that is to be proven finds the first byte that landed changed.
void spoil_next_pull();
void spoil_landed(std::byte* first);

// The UCX transports of the rdma lane: others that truly read one-sidedly stand in for RDMA devices.
void set_rdma_transports(const std::string& chosen);
[[nodiscard]] std::string rdma_transports();

// What regions registered as CUDA memory are: of a GPU; host memory, which nobody looks into; host memory, as UCX is
// told too.
enum class CudaRegions { real, claimed, host };
void set_cuda_regions(CudaRegions kind);
[[nodiscard]] CudaRegions cuda_regions();
#else
constexpr void spoil_landed(std::byte* /*first*/) {}
inline std::string rdma_transports() { return real_rdma; }
enum class CudaRegions { real, claimed, host };
constexpr CudaRegions cuda_regions() { return CudaRegions::real; }
constexpr std::uint64_t pull_allowance(std::uint64_t /*landed*/, std::uint64_t /*total*/, std::uint64_t limit) {
  return limit;
}
#endif

}  // namespace kvdirect
