// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/cma.h"

#include <sys/types.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>

#include "memory/put_in_place.h"

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
  [[nodiscard]] std::span<const iovec> pieces() const noexcept { return {list.data(), count}; }
};

ssize_t read_some(std::uint64_t pid, std::span<const iovec> into, std::span<const iovec> from) noexcept {
  return process_vm_readv(static_cast<pid_t>(pid), into.data(), into.size(), from.data(), from.size(), 0);
}

// An errno value, 0 for success.
int read_all(std::uint64_t pid, std::span<const iovec> into, std::span<const iovec> from) noexcept {
  const ssize_t got = read_some(pid, into, from);
  if (got < 0) return errno;
  std::size_t wanted = 0;
  for (const iovec& piece : into) wanted += piece.iov_len;
  return static_cast<std::size_t>(got) == wanted ? 0 : EFAULT;
}

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

// Does nothing for 0.
void check(const Pull& pull, int status, std::uint64_t pid) {
  if (status == 0) return;
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
    void* const word = as_pointer(_host.words_address + sizeof(LeaseWord) * pull.job().lease.slot);
    std::uint64_t incarnation = 0;
    std::array<LeaseCopy, 2> copies;  // see vouched()
    const std::array<iovec, 2> into{{{&incarnation, sizeof incarnation}, {copies.data(), sizeof copies}}};
    const std::array<iovec, 3> from{{{as_pointer(_host.incarnation_address), sizeof incarnation},
                                     {word, sizeof(LeaseCopy)},
                                     {word, sizeof(LeaseCopy)}}};
    check(pull, read_all(_host.pid, into, from), _host.pid);
    if (incarnation != _incarnation) {
      throw pull.error(Errc::peer_lost, "failed: the owner closed its engine, or another process has its PID");
    }
    return vouched(copies[0], copies[1]);
  }

  void copy(const Pull& pull, PieceCursor chunk) const override {
    if (pull.job().permutes) {
      copy_permuted(pull, chunk);
      return;
    }
    const auto& regions = pull.job().local->regions;
    while (!chunk.done()) {
      IovecList into;
      IovecList from;
      PieceCursor runs = chunk;
      // Either list may need one more piece.
      while (!runs.done() && into.has_room() && from.has_room()) {
        const Run run = runs.take();
        into.add(reinterpret_cast<std::uint64_t>(regions[run.local_region].address) + run.local_offset, run.length);
        from.add(_host.regions[run.remote_region] + run.remote_offset, run.length);
      }
      const ssize_t got = read_some(_host.pid, into.pieces(), from.pieces());
      if (got <= 0) check(pull, got < 0 ? errno : EFAULT, _host.pid);
      // Fewer than asked for: go on from there, and meet the error with the next call if there is one.
      chunk.skip(static_cast<std::uint64_t>(got));
    }
  }

 private:
  // Reads what lies together, and then puts it in order: the kernel takes longer for a small piece than for its bytes.
  void copy_permuted(const Pull& pull, PieceCursor chunk) const {
    const PullJob& job = pull.job();
    const std::uint64_t most = std::min<std::uint64_t>(arrival_bytes, chunk.left());
    const auto arrived = std::make_unique_for_overwrite<std::byte[]>(most);
    while (!chunk.done()) {
      IovecList from;
      PieceCursor runs = chunk.first(most);
      while (!runs.done() && from.has_room()) {
        const Run run = runs.take();
        from.add(_host.regions[run.remote_region] + run.remote_offset, run.length);
      }
      const std::uint64_t wanted = std::min(most, chunk.left()) - runs.left();
      const std::array<iovec, 1> into{{{arrived.get(), wanted}}};
      const ssize_t got = read_some(_host.pid, into, from.pieces());
      if (got <= 0) check(pull, got < 0 ? errno : EFAULT, _host.pid);
      put_in_place(*job.local, chunk.first(static_cast<std::uint64_t>(got)), arrived.get(), use_of(job.landing()));
      chunk.skip(static_cast<std::uint64_t>(got));
    }
  }

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
  Token nonce{};
  std::uint64_t incarnation = 0;
  const std::array<iovec, 2> into{{{nonce.data(), nonce.size()}, {&incarnation, sizeof incarnation}}};
  const std::array<iovec, 2> from{
      {{as_pointer(host.nonce_address), nonce.size()}, {as_pointer(host.incarnation_address), sizeof incarnation}}};
  const int status = read_all(host.pid, into, from);
  if (status != 0) throw refuse(explain(status, host.pid), strerror(status));
  if (!same_secret(nonce, host.nonce) || incarnation != owner.incarnation) {
    throw refuse("process " + std::to_string(host.pid) + " is not the owner: it runs on another host or in another " +
                 "PID namespace");
  }
  return std::make_shared<const ForeignOwner>(host, owner.incarnation);
}

}  // namespace kvdirect
