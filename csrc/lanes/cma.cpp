// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/cma.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "lanes/lease_check.h"
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
class ForeignOwner final : public CopySource {
 public:
  ForeignOwner(const HostAccess& host, std::uint64_t incarnation) : _host(host), _incarnation(incarnation) {}

  // Reading it says so.
  void check_owner(const Pull& /*pull*/) const override {}

  std::uint64_t lease_watermark(const Pull& pull) const override {
    const LeaseRef lease = pull.job().lease;
    check_slot(pull, _host.words);
    ProcessMemory::Pair pair;
    const int status = ProcessMemory(_host.pid).read_lease(_host.incarnation_address,
                                                           _host.words_address + sizeof(LeaseWord) * lease.slot, pair);
    if (status != 0) fail_with(pull, status, _host.pid);
    if (pair.incarnation != _incarnation) {
      throw pull.error(Errc::peer_lost, "failed: the owner closed its engine, or another process has its PID");
    }
    return check_lease(pull, pair.lease);
  }

  void copy(const Pull& pull, Chunk chunk) const override {
    const int status = ProcessMemory(_host.pid).copy_runs(pull.job(), _host.regions, chunk);
    if (status != 0) fail_with(pull, status, _host.pid);
  }

 private:
  const HostAccess _host;
  const std::uint64_t _incarnation;
};

}  // namespace

LaneCapabilities CmaLane::capabilities() const noexcept {
  return {.one_sided = true, .same_host = true, .carries = &host_to_host};
}

void CmaLane::prove(Clock::time_point /*deadline*/) {
  const auto refuse = [this](const std::string& why, const std::string& status = {}) {
    return Error(Errc::lane, "cma does not work: " + why,
                 {.operation = "prove lane", .peer = _options.peer, .status = status});
  };
  if (!_options.host) throw refuse("the owner does not allow it");
  const HostAccess& host = *_options.host;
  if (host.regions.size() != _options.regions) throw refuse("the owner's welcome and descriptor disagree");
  const ProcessMemory memory(host.pid);
  Token nonce{};
  std::uint64_t incarnation = 0;
  int status = memory.read(host.nonce_address, nonce);
  if (status == 0) {
    status = memory.read(host.incarnation_address, std::as_writable_bytes(std::span(&incarnation, 1)));
  }
  if (status != 0) throw refuse(explain(status, host.pid), strerror(status));
  if (!same_secret(nonce, host.nonce) || incarnation != _options.incarnation) {
    throw refuse("process " + std::to_string(host.pid) + " is not the owner: it runs on another host or in another " +
                 "PID namespace");
  }
  _owner = std::make_shared<const ForeignOwner>(host, _options.incarnation);
}

void CmaLane::submit(std::shared_ptr<Pull> pull) { copy_pull(pull, _owner, _pool, _parts); }

}  // namespace kvdirect
