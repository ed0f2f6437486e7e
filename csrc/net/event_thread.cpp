// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "net/event_thread.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/threads.h"

namespace kvdirect {

namespace {

constexpr auto wind_down_time = std::chrono::milliseconds(500);
constexpr auto wind_down_pause = std::chrono::milliseconds(2);

}  // namespace

CommandQueue::CommandQueue() : _event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!_event) throw kernel_refused("eventfd");
}

bool CommandQueue::post(std::function<void()> command) {
  {
    const std::lock_guard lock(_mutex);
    if (_closed) return false;
    _commands.push_back(std::move(command));
  }
  wake();
  return true;
}

void CommandQueue::wake() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(_event.get(), &one, sizeof one);
}

std::vector<std::function<void()>> CommandQueue::take() {
  const std::lock_guard lock(_mutex);
  return std::exchange(_commands, {});
}

bool CommandQueue::close_if_empty() {
  const std::lock_guard lock(_mutex);
  _closed = _commands.empty();
  return _closed;
}

void CommandQueue::drain_event() noexcept {
  std::uint64_t ignored = 0;
  [[maybe_unused]] const ssize_t got = read(_event.get(), &ignored, sizeof ignored);
}

EventThread::EventThread(Settings settings, Callbacks callbacks)
    : _settings(std::move(settings)), _callbacks(std::move(callbacks)) {
  std::promise<void> started;
  auto ready = started.get_future();
  try {
    _thread = std::thread([this, promise = std::move(started)]() mutable { run(std::move(promise)); });
  } catch (const std::system_error& error) {
    throw Error(Errc::transport, "cannot start thread " + _settings.thread,
                {.operation = "make an engine",
                 .status = error.code().message(),
                 .hint = "raise the limit of processes (ulimit -u, the container's pids.max)"});
  }
  try {
    ready.get();
  } catch (...) {
    _thread.join();
    throw;
  }
}

void EventThread::run(std::promise<void> started) {
  block_signals();
  name_thread(_settings.thread.c_str());
  try {
    _reactor = std::make_unique<Reactor>();
    _reactor->add(_queue->event(), [this](std::uint32_t) { _queue->drain_event(); });
    _callbacks.start(*this);
    started.set_value();
  } catch (...) {
    started.set_exception(std::current_exception());
    _stop.store(true, std::memory_order_release);
  }
  if (!_stop.load(std::memory_order_acquire)) {
    try {
      loop();
    } catch (const std::exception& error) {
      // The kernel let go of us: everything that runs is failed below instead of hanging.
      _failed.store(true, std::memory_order_release);
      std::fprintf(stderr, "kvtransfer: thread %s of engine '%s' ends: %s\n", _settings.thread.c_str(),
                   _settings.name.c_str(), error.what());
    }
    wind_down();
  }
  while (!_queue->close_if_empty()) run_commands();
}

void EventThread::loop() {
  _next_tick = Clock::now();
  while (!_stop.load(std::memory_order_acquire)) {
    const auto began = Clock::now();
    bool busy = run_commands();
    if (_reactor->turn(Clock::now())) busy = true;
    if (_callbacks.poll()) busy = true;
    if (const auto now = Clock::now(); now >= _next_tick) {
      _next_tick = Clock::time_point::max();
      tick_by(_callbacks.tick(now));
      // What it found is for poll() to deal with.
      busy = true;
    }
    note_turn(began);
    if (busy || Clock::now() >= _next_tick || (_callbacks.may_sleep && !_callbacks.may_sleep())) continue;
    const auto until = _next_tick;
    _reactor->turn(until);
    note_turn(until);
  }
}

void EventThread::note_turn(Clock::time_point since) noexcept {
  const auto turn = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - since).count();
  if (turn > 0 && _settings.counters) _settings.counters->note_turn(static_cast<std::uint64_t>(turn));
}

bool EventThread::run_commands() {
  auto commands = _queue->take();
  for (auto& command : commands) {
    try {
      command();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "kvtransfer: engine '%s': %s\n", _settings.name.c_str(), error.what());
    }
  }
  return !commands.empty();
}

void EventThread::wind_down() {
  // What was said before the stop is said to whom the duties now let go.
  run_commands();
  _callbacks.stop();
  const auto deadline = Clock::now() + wind_down_time;
  while (_callbacks.lingering() && Clock::now() < deadline) {
    _reactor->turn(Clock::now() + wind_down_pause);
    _callbacks.poll();
  }
}

void EventThread::tick_by(Clock::time_point when) noexcept { _next_tick = std::min(_next_tick, when); }

void EventThread::ask_to_stop() noexcept {
  _stop.store(true, std::memory_order_release);
  _queue->wake();
}

void EventThread::stop() {
  if (!_thread.joinable()) return;
  ask_to_stop();
  _thread.join();
}

}  // namespace kvdirect
