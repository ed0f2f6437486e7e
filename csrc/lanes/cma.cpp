// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/cma.h"

#include <sys/types.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <span>

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

// An errno value, 0 for success.
using Status = int;

// Another process's memory, read with process_vm_readv.
class ProcessMemory {
 public:
  explicit ProcessMemory(std::uint64_t pid) noexcept : _pid(static_cast<pid_t>(pid)) {}

  [[nodiscard]] Status read(std::uint64_t address, std::span<std::byte> into) const noexcept {
    const iovec local{into.data(), into.size()};
    const iovec remote{as_pointer(address), into.size()};
    const ssize_t got = process_vm_readv(_pid, &local, 1, &remote, 1, 0);
    if (got < 0) return errno;
    return static_cast<std::size_t>(got) == into.size() ? 0 : EFAULT;
  }

  struct Pair {
    std::uint64_t incarnation = 0;
    LeaseCopy lease;
  };
  // The incarnation and one lease's words.
  [[nodiscard]] Status read_lease(std::uint64_t incarnation_address, std::uint64_t word_address,
                                  Pair& into) const noexcept {
    std::uint64_t incarnation = 0;
    std::array<LeaseCopy, 2> copies;
    const std::array<iovec, 2> local{{{&incarnation, sizeof incarnation}, {copies.data(), sizeof copies}}};
    const std::array<iovec, 3> remote{{{as_pointer(incarnation_address), sizeof incarnation},
                                       {as_pointer(word_address), sizeof(LeaseCopy)},
                                       {as_pointer(word_address), sizeof(LeaseCopy)}}};
    const ssize_t got = process_vm_readv(_pid, local.data(), local.size(), remote.data(), remote.size(), 0);
    if (got < 0) return errno;
    if (static_cast<std::size_t>(got) != sizeof incarnation + sizeof copies) return EFAULT;
    into = {incarnation, vouched(copies[0], copies[1])};
    return 0;
  }

  // A part of a pull. `regions`: where the owner's regions are in its process.
  [[nodiscard]] Status copy_runs(const PullJob& job, const std::vector<std::uint64_t>& regions,
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
      const ssize_t got = process_vm_readv(_pid, local.list.data(), local.count, remote.list.data(), remote.count, 0);
      if (got < 0) return errno;
      if (got == 0) return EFAULT;
      // Fewer than asked for: go on from there, and meet the error with the next call if there is one.
      chunk.skip(static_cast<std::uint64_t>(got));
    }
    return 0;
  }

 private:
  pid_t _pid;
};

std::string explain(int status, std::uint64_t pid) {
  const std::string who = "process " + std::to_string(pid);
  switch (status) {
    case EPERM:
      return "this process may not read " + who +
             ": another user, fewer capabilities, a kernel.yama.ptrace_scope above 0 or a container without ptrace";
    case ESRCH: return who + " does not exist here: it ended, or runs in another PID namespace";
    case EFAULT: return who + " has no memory at that address: it ended its engine, or is another process";
    case ENOSYS: return "the kernel has no process_vm_readv";
    default: return "reading " + who + " failed";
  }
}

[[noreturn]] void fail_with(const Pull& pull, int status, std::uint64_t pid) {
  const bool gone = status == ESRCH || status == EFAULT;
  throw pull.error(gone ? Errc::peer_lost : Errc::transport, "failed: " + explain(status, pid), strerror(status));
}

// The owner's memory as the kernel reads it.
class ForeignOwner final : public HostMemory {
 public:
  ForeignOwner(const HostAccess& host, std::uint64_t incarnation) : _host(host), _incarnation(incarnation) {}

  std::size_t slots() const noexcept override { return _host.words; }
  // Reading it says so.
  void check_owner(const Pull& /*pull*/) const override {}

  LeaseCopy words(const Pull& pull) const override {
    const std::uint64_t word = _host.words_address + sizeof(LeaseWord) * pull.job().lease.slot;
    ProcessMemory::Pair pair;
    const int status = ProcessMemory(_host.pid).read_lease(_host.incarnation_address, word, pair);
    if (status != 0) fail_with(pull, status, _host.pid);
    if (pair.incarnation != _incarnation) {
      throw pull.error(Errc::peer_lost, "failed: the owner closed its engine, or another process has its PID");
    }
    return pair.lease;
  }

  void copy(const Pull& pull, RunCursor<Run> chunk) const override {
    const int status = ProcessMemory(_host.pid).copy_runs(pull.job(), _host.regions, chunk);
    if (status != 0) fail_with(pull, status, _host.pid);
  }

 private:
  const HostAccess _host;
  const std::uint64_t _incarnation;
};

}  // namespace

std::shared_ptr<const HostMemory> open_process(const ReaderConnection& owner, std::size_t regions) {
  const auto refuse = [](const std::string& why, const std::string& status = {}) {
    return Error(Errc::lane, why, {.status = status});
  };
  if (!owner.welcome.host) throw refuse("the owner does not allow it");
  const HostAccess& host = *owner.welcome.host;
  if (host.regions.size() != regions) throw refuse("the owner's welcome and descriptor disagree");
  const ProcessMemory memory(host.pid);
  Token nonce{};
  std::uint64_t incarnation = 0;
  int status = memory.read(host.nonce_address, nonce);
  if (status == 0) {
    status = memory.read(host.incarnation_address, std::as_writable_bytes(std::span(&incarnation, 1)));
  }
  if (status != 0) throw refuse(explain(status, host.pid), strerror(status));
  if (!same_secret(nonce, host.nonce) || incarnation != owner.incarnation) {
    throw refuse("process " + std::to_string(host.pid) + " is not the owner: it runs on another host or in another " +
                 "PID namespace");
  }
  return std::make_shared<const ForeignOwner>(host, owner.incarnation);
}

}  // namespace kvdirect
