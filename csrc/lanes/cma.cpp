// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/cma.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "lanes/process_memory.h"
#include "test_hooks.h"

namespace kvdirect {

namespace {

// A hand-over to the bulk thread costs more than copying this much.
constexpr std::uint64_t inline_bytes = 256 * 1024;
// Between two looks at whether the pull is still wanted.
constexpr std::uint64_t step_bytes = 8 * 1024 * 1024;

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

// One pull in steps: is the lease good and far enough, copy, is the lease still good.
class CmaPull final : public Bulk::Task {
 public:
  CmaPull(std::shared_ptr<Pull> pull, std::shared_ptr<const CmaLane::Target> target)
      : _pull(std::move(pull)), _target(std::move(target)), _copier(_pull->job(), _target->host->regions) {}

  std::optional<Clock::time_point> step() noexcept override {
    try {
      const auto next = advance();
      if (!next) _pull->set_quiet();
      return next;
    } catch (const Error& error) {
      _pull->fail(error);
    } catch (const std::exception& error) {
      _pull->fail(_pull->error(Errc::transport, "failed", error.what()));
    }
    _pull->set_quiet();
    return std::nullopt;
  }

 private:
  std::optional<Clock::time_point> advance() {
    const auto now = Clock::now();
    if (_pull->done()) return std::nullopt;
    if (now >= _pull->job().deadline) {
      throw _pull->error(Errc::timeout, _checked ? "did not finish by its deadline"
                                                 : "found the positions it wants not final by its deadline");
    }
    if (!_checked) {
      // The watermark before the data, the epoch after it: what was not final when it was read is never accepted.
      if (lease_watermark() < _pull->job().watermark) return std::min(now + _backoff.next(), _pull->job().deadline);
      _checked = true;
      _pull->asked();
    }
    if (!_copier.complete()) {
      const auto allowed = pull_allowance(_copier.copied(), _pull->job().bytes, step_bytes);
      if (allowed == 0) {
        static_cast<void>(lease_watermark());
        return now + Backoff::longest;
      }
      const int status = _copier.copy(_target->host->pid, allowed);
      if (status != 0) fail_with(status);
      if (!_copier.complete()) return now;
    }
    static_cast<void>(lease_watermark());
    _pull->succeed();
    return std::nullopt;
  }

  // Throws unless the lease still holds.
  std::uint64_t lease_watermark() {
    const HostAccess& host = *_target->host;
    const LeaseRef lease = _pull->job().lease;
    if (lease.slot >= host.words) {
      throw _pull->error(Errc::lease_expired, "names a lease slot the owner does not have");
    }
    ProcessMemory::Pair pair;
    const int status = ProcessMemory(host.pid).read_lease(host.incarnation_address,
                                                          host.words_address + sizeof(LeaseWord) * lease.slot, pair);
    if (status != 0) fail_with(status);
    if (pair.incarnation != _target->incarnation) {
      throw _pull->error(Errc::peer_lost, "failed: the owner closed its engine, or another process has its PID");
    }
    if (pair.lease.epoch != lease.epoch) {
      throw _pull->error(Errc::lease_expired, "failed: the owner no longer promises these blocks", {},
                         "compute them locally, or ask the owner again");
    }
    return pair.lease.watermark;
  }

  [[noreturn]] void fail_with(int status) const {
    const bool gone = status == ESRCH || status == EFAULT;
    throw _pull->error(gone ? Errc::peer_lost : Errc::transport, "failed: " + explain(status, _target->host->pid),
                       strerror(status));
  }

  std::shared_ptr<Pull> _pull;
  std::shared_ptr<const CmaLane::Target> _target;
  RunCopier _copier;
  bool _checked = false;
  Backoff _backoff;
};

}  // namespace

LaneCapabilities CmaLane::capabilities() const noexcept {
  return {.one_sided = true, .same_host = true, .carries = &host_to_host};
}

void CmaLane::prove(Clock::time_point /*deadline*/) {
  const auto refuse = [this](const std::string& why, const std::string& status = {}) {
    return Error(Errc::lane, "cma does not work: " + why,
                 {.operation = "prove lane", .peer = _target->peer, .status = status});
  };
  if (!_target->host) throw refuse("the owner does not allow it");
  const HostAccess& host = *_target->host;
  if (host.regions.size() != _target->regions) throw refuse("the owner's welcome and descriptor disagree");
  const ProcessMemory memory(host.pid);
  Token nonce{};
  std::uint64_t incarnation = 0;
  int status = memory.read(host.nonce_address, nonce);
  if (status == 0) {
    status = memory.read(host.incarnation_address, std::as_writable_bytes(std::span(&incarnation, 1)));
  }
  if (status != 0) throw refuse(explain(status, host.pid), strerror(status));
  if (!same_secret(nonce, host.nonce) || incarnation != _target->incarnation) {
    throw refuse("process " + std::to_string(host.pid) + " is not the owner: it runs on another host or in another " +
                 "PID namespace");
  }
}

void CmaLane::submit(std::shared_ptr<Pull> pull) {
  auto task = std::make_unique<CmaPull>(pull, _target);
  auto when = Clock::now();
  if (pull->job().bytes <= inline_bytes) {
    while (true) {
      const auto next = task->step();
      if (!next) return;
      when = *next;
      if (when > Clock::now()) break;  // not final yet: wait elsewhere
    }
  }
  pull->on_abort([bulk = std::weak_ptr<Bulk>(_bulk)] {
    if (const auto alive = bulk.lock()) alive->nudge();
  });
  if (_bulk->submit(std::move(task), when)) return;
  pull->fail(pull->error(Errc::closed, "could not start: the engine is closed"));
  pull->set_quiet();
}

}  // namespace kvdirect
