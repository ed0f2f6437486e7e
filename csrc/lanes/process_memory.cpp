// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/process_memory.h"

#include <sys/types.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace kvdirect {

namespace {

// More in one call is slower, and the kernel allows 1024.
constexpr std::size_t max_pieces = 256;

void* as_pointer(std::uint64_t address) noexcept { return reinterpret_cast<void*>(address); }

// Pieces of memory in order, neighbours merged.
struct IovecList {
  std::array<iovec, max_pieces> list;
  std::size_t count = 0;

  // There must be room for one more.
  void add(std::uint64_t address, std::uint64_t length) noexcept {
    if (count > 0) {
      iovec& last = list[count - 1];
      if (reinterpret_cast<std::uint64_t>(last.iov_base) + last.iov_len == address) {
        last.iov_len += length;
        return;
      }
    }
    list[count++] = {as_pointer(address), length};
  }
  [[nodiscard]] bool has_room() const noexcept { return count < max_pieces; }
};

}  // namespace

ProcessMemory::Status ProcessMemory::read(std::uint64_t address, std::span<std::byte> into) const noexcept {
  const iovec local{into.data(), into.size()};
  const iovec remote{as_pointer(address), into.size()};
  const ssize_t got = process_vm_readv(static_cast<pid_t>(_pid), &local, 1, &remote, 1, 0);
  if (got < 0) return errno;
  return static_cast<std::size_t>(got) == into.size() ? 0 : EFAULT;
}

ProcessMemory::Status ProcessMemory::read_lease(std::uint64_t incarnation_address, std::uint64_t word_address,
                                                Pair& into) const noexcept {
  std::uint64_t incarnation = 0;
  std::array<LeaseCopy, 2> copies;
  const std::array<iovec, 2> local{{{&incarnation, sizeof incarnation}, {copies.data(), sizeof copies}}};
  const std::array<iovec, 3> remote{{{as_pointer(incarnation_address), sizeof incarnation},
                                     {as_pointer(word_address), sizeof(LeaseCopy)},
                                     {as_pointer(word_address), sizeof(LeaseCopy)}}};
  const ssize_t got =
      process_vm_readv(static_cast<pid_t>(_pid), local.data(), local.size(), remote.data(), remote.size(), 0);
  if (got < 0) return errno;
  if (static_cast<std::size_t>(got) != sizeof incarnation + sizeof copies) return EFAULT;
  into = {incarnation, vouched(copies[0], copies[1])};
  return 0;
}

ProcessMemory::Status ProcessMemory::copy_runs(const PullJob& job, const std::vector<std::uint64_t>& regions,
                                               RunCursor<Run> chunk) const noexcept {
  while (!chunk.done()) {
    IovecList local;
    IovecList remote;
    RunCursor<Run> runs = chunk;
    // Either list may need one more piece.
    while (!runs.done() && local.has_room() && remote.has_room()) {
      const Run run = runs.take();
      local.add(reinterpret_cast<std::uint64_t>(job.local->regions[run.local_region].address) + run.local_offset,
                run.length);
      remote.add(regions[run.remote_region] + run.remote_offset, run.length);
    }
    const ssize_t got =
        process_vm_readv(static_cast<pid_t>(_pid), local.list.data(), local.count, remote.list.data(), remote.count, 0);
    if (got < 0) return errno;
    if (got == 0) return EFAULT;
    // Fewer than asked for: go on from there, and meet the error with the next call if there is one.
    chunk.skip(static_cast<std::uint64_t>(got));
  }
  return 0;
}

}  // namespace kvdirect
