// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/cma.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "lanes/process_memory.h"

namespace kvdirect {

namespace {

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
