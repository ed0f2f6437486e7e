// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "pull.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <limits>
#include <utility>

#include "wire/messages.h"

namespace kvdirect {

namespace {
double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

void signal_event(int fd) noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof one);
}
}  // namespace

void PullJob::check_runs(std::uint64_t count) const {
  if (count <= limits::runs_per_pull) return;
  throw Error(Errc::plan,
              "a pull of " + std::to_string(count) + " runs; at most " + std::to_string(limits::runs_per_pull) +
                  " are possible",
              {.operation = "pull", .peer = peer, .hint = "pull fewer positions at a time"});
}

Pull::Pull(PullJob&& job, std::shared_ptr<Counters> counters)
    : _job(std::move(job)), _counters(std::move(counters)), _asked(_job.called) {
  std::uint64_t bytes = 0;
  for (const Run& run : _job.runs) bytes += run.length;
  _job.bytes = bytes;
  _job.run_count = _job.runs.size();
  count(_job.groups);
}

Pull::~Pull() {
  if (!_job.plan) return;
  _job.plan->reuse(std::move(_job.groups));
  if (!_job.runs.empty()) _job.plan->reuse(std::move(_job.runs));
}

void Pull::count(const std::vector<RunGroup>& groups) noexcept {
  for (const RunGroup& group : groups) {
    _job.bytes += group.bytes();
    _job.run_count += group.runs();
  }
}

std::vector<RunGroup> Pull::plan_some(std::size_t blocks) {
  try {
    auto groups = _job.rest->next(blocks);
    if (_job.rest->done()) _job.rest.reset();
    count(groups);
    return groups;
  } catch (const Error& error) {
    _job.rest.reset();
    _refused = error;
    throw;
  }
}

std::vector<RunGroup> Pull::take_groups(std::size_t blocks) {
  if (_job.groups.empty() && _job.rest) return plan_some(blocks);
  return std::exchange(_job.groups, {});
}

void Pull::plan_rest() {
  if (_job.rest && !done())
    std::ranges::move(plan_some(std::numeric_limits<std::size_t>::max()), std::back_inserter(_job.groups));
  _job.rest.reset();
}

bool Pull::wait_until(Clock::time_point deadline) {
  while (!done() && Clock::now() < deadline && help()) continue;
  std::unique_lock lock(_mutex);
  ++_waiters;
  const bool over = _changed.wait_until(lock, deadline, [this] { return done(); });
  --_waiters;
  return over;
}

bool Pull::wait_quiet_until(Clock::time_point deadline) {
  std::unique_lock lock(_mutex);
  return _changed.wait_until(lock, deadline, [this] { return quiet(); });
}

void Pull::cancel() { abort(error(Errc::cancelled, "was cancelled")); }

void Pull::abort(Error error) {
  if (!fail(std::move(error))) return;
  std::function<void()> hook;
  {
    const std::lock_guard lock(_mutex);
    hook = std::exchange(_hook, nullptr);
  }
  if (hook) hook();
}

void Pull::on_abort(std::function<void()> hook) {
  {
    const std::lock_guard lock(_mutex);
    if (!done()) {
      _hook = std::move(hook);
      return;
    }
  }
  hook();
}

// Without the lock: nothing of it changes once the pull is done.
PullResult Pull::result() const {
  if (!done()) throw error(Errc::invalid_state, "is still running", {}, "wait for it first");
  if (_failure) throw Error(*_failure);
  if (_makeup) return _makeup->result(seconds_between(_job.called, _ended));
  return {_job.bytes, _job.run_count, _job.lane, seconds_between(_asked, _ended), seconds_between(_job.called, _asked)};
}

std::optional<Error> Pull::failure() const {
  const std::lock_guard lock(_mutex);
  return _failure;
}

void Pull::consist_of(std::shared_ptr<PullMakeup> makeup) {
  _makeup = std::move(makeup);
  _job.bytes = _makeup->bytes();
  _job.run_count = _makeup->runs();
}

int Pull::fileno() {
  const std::lock_guard lock(_mutex);
  if (!_event) {
    _event = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!_event) throw error(Errc::transport, "got no event descriptor", strerror(errno));
    if (done()) signal_event(_event.get());
  }
  return _event.get();
}

// Without the lock: it is read only once the pull has succeeded, which is behind this.
void Pull::asked(Clock::time_point now) noexcept { _asked = now; }

bool Pull::succeed() { return end(std::nullopt); }

bool Pull::fail(Error error) { return end(std::move(error)); }

bool Pull::end(std::optional<Error> failure) {
  {
    const std::lock_guard lock(_mutex);
    if (done()) return false;
    count_end(!failure);
    if (!failure) {
      _hook = nullptr;
      _quiet.store(true, std::memory_order_release);  // validated means that every byte has landed
    }
    _failure = std::move(failure);
    _ended = Clock::now();
    _done.store(true, std::memory_order_release);
    if (_event) signal_event(_event.get());
    _changed.notify_all();
  }
  if (_watcher) _watcher();
  return true;
}

void Pull::count_end(bool valid) noexcept {
  if (!_counters) return;
  ++(valid ? _counters->pulls_ok : _counters->pulls_failed);
  if (valid) _counters->bytes_pulled += _job.bytes;
}

void Pull::set_quiet() {
  if (quiet()) return;
  {
    const std::lock_guard lock(_mutex);
    _hook = nullptr;
    _quiet.store(true, std::memory_order_release);
    _changed.notify_all();
  }
  if (_watcher) _watcher();
}

std::string Pull::what() const {
  return "pull of " + std::to_string(_job.bytes) + " bytes in " + std::to_string(_job.run_count) +
         " runs under lease slot " + std::to_string(_job.lease.slot);
}

Error Pull::error(Errc code, const std::string& message, const std::string& status, const std::string& hint) const {
  return {code,
          what() + " over " + _job.lane + " " + message,
          {.operation = "pull", .peer = _job.peer, .status = status, .hint = hint}};
}

}  // namespace kvdirect
