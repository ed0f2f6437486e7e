// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/counters.h"
#include "base/fd.h"
#include "base/non_copyable.h"
#include "net/reactor.h"

namespace kvdirect {

// Where other threads leave commands for the control thread. Outlives the thread, so that a late caller finds out.
class CommandQueue {
 public:
  CommandQueue();

  // False once the thread ended. What was taken is run, at the latest while the thread winds down.
  bool post(std::function<void()> command);
  void wake() noexcept;

  // Control thread.
  [[nodiscard]] std::vector<std::function<void()>> take();
  // Refuses further commands, unless some are left: true if it is closed now.
  [[nodiscard]] bool close_if_empty();
  void drain_event() noexcept;
  [[nodiscard]] int event() const noexcept { return _event.get(); }

 private:
  std::mutex _mutex;
  std::vector<std::function<void()>> _commands;
  bool _closed = false;
  Fd _event;
};

// A thread that alone touches what its duties own (the control thread: streams and sessions). It listens to sockets,
// runs commands that other threads post, and keeps deadlines. It sleeps whenever there is nothing to do.
class EventThread : NonCopyable {
 public:
  using Clock = std::chrono::steady_clock;

  struct Settings {
    std::string name;
    std::string thread;                  // its name, at most 15 characters
    std::shared_ptr<Counters> counters;  // may be null
  };

  // What is done on this thread.
  struct Callbacks {
    // Once, first. Other duties wait for it.
    std::function<void(EventThread&)> start;
    // Whenever something happened; true if there is more to do right now.
    std::function<bool()> poll;
    // At the latest when it asked to be called; says when next.
    std::function<Clock::time_point(Clock::time_point)> tick;
    // Asked before each sleep; false: poll again first. May be left out.
    std::function<bool()> may_sleep;
    // Once, at the end: say goodbye and let go.
    std::function<void()> stop;
    // Whether goodbyes are still on their way.
    std::function<bool()> lingering;
  };

  // Returns when the thread runs; throws what kept it from starting.
  EventThread(Settings settings, Callbacks callbacks);
  ~EventThread() { stop(); }

  // Any thread. Commands run in order.
  bool post(std::function<void()> command) { return _queue->post(std::move(command)); }
  [[nodiscard]] const std::shared_ptr<CommandQueue>& commands() const noexcept { return _queue; }
  // Control thread: tick no later than this.
  void tick_by(Clock::time_point when) noexcept;
  // Lets the thread wind down, without waiting for it.
  void ask_to_stop() noexcept;
  // Joins the thread. Bounded.
  void stop();
  // The kernel made the thread end before stop() was called.
  [[nodiscard]] bool failed() const noexcept { return _failed.load(std::memory_order_acquire); }

  // Control thread only.
  [[nodiscard]] Reactor& reactor() noexcept { return *_reactor; }

 private:
  void run(std::promise<void> started);
  void loop();
  bool run_commands();
  void note_turn(Clock::time_point since) noexcept;
  void wind_down();

  Settings _settings;
  Callbacks _callbacks;
  std::unique_ptr<Reactor> _reactor;
  std::shared_ptr<CommandQueue> _queue = std::make_shared<CommandQueue>();
  std::atomic<bool> _stop{false};
  std::atomic<bool> _failed{false};
  Clock::time_point _next_tick;
  std::thread _thread;
};

}  // namespace kvdirect
