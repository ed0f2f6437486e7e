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

#include "counters.h"
#include "tcp_socket.h"
#include "ucx.h"

namespace kvdirect {

// Where other threads leave commands for the control thread. Outlives the thread, so that a late caller finds out.
class Inbox {
 public:
  Inbox();
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;
  ~Inbox();

  // False once the thread ended. What was taken is run, at the latest while the thread winds down.
  bool post(std::function<void()> command);
  void wake() noexcept;

  // Control thread.
  [[nodiscard]] std::vector<std::function<void()>> take();
  // Refuses further commands, unless some are left: true if it is closed now.
  [[nodiscard]] bool close_if_empty();
  void drain_event() noexcept;
  [[nodiscard]] int event() const noexcept { return _event; }

 private:
  std::mutex _mutex;
  std::vector<std::function<void()>> _commands;
  bool _closed = false;
  int _event = -1;
};

// The control thread: the only one that touches the message context. It progresses UCX, runs commands that other
// threads post, and keeps deadlines. It sleeps whenever there is nothing to do.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  struct Settings {
    std::string name;
    std::string device;  // UCX NET_DEVICES
    std::uint64_t segment_bytes = 0;
    std::shared_ptr<Counters> counters;
  };

  // What the engine does on this thread.
  struct Duties {
    // Once, first: the workers exist. Other duties wait for it.
    std::function<void(Progress&)> start;
    // Whenever something happened; true if there is more to do right now.
    std::function<bool()> pump;
    // At the latest when it asked to be called; says when next.
    std::function<Clock::time_point(Clock::time_point)> tick;
    // Once, last: let go of everything that belongs to the workers.
    std::function<void()> stop;
  };

  // Returns when the thread runs; throws what kept it from starting.
  Progress(Settings settings, Duties duties);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { stop(); }

  // Any thread. Commands run in order.
  bool post(std::function<void()> command) { return _inbox->post(std::move(command)); }
  [[nodiscard]] const std::shared_ptr<Inbox>& inbox() const noexcept { return _inbox; }
  // Control thread: tick no later than this.
  void tick_by(Clock::time_point when) noexcept;
  // Joins the thread. Bounded: what UCX has not closed by then is closed with the worker.
  void stop();
  // UCX or the kernel made the thread end before stop() was called.
  [[nodiscard]] bool failed() const noexcept { return _failed.load(std::memory_order_acquire); }

  // Control thread only. One worker serves readers and is the one in the descriptor, the other reaches owners: were
  // it one, UCX would pair the endpoints of two engines that read from each other, and closing one would cut both.
  [[nodiscard]] const std::shared_ptr<ucx::Worker>& serving() const noexcept { return _serving; }
  [[nodiscard]] const std::shared_ptr<ucx::Worker>& reading() const noexcept { return _reading; }
  // Where the workers listen, each behind its shield.
  [[nodiscard]] const TcpAddress& serving_address() const noexcept { return _serving_address; }
  [[nodiscard]] const TcpAddress& reading_address() const noexcept { return _reading_address; }
  // Wakes the thread when `fd` is readable; pump() is expected to do something about it.
  void watch(int fd);
  // UCX messages that were no plain eager data.
  std::function<void()> on_rejected;

 private:
  void run(std::promise<void> started);
  void open();
  void loop();
  bool work();
  bool run_commands();
  void sleep(Clock::time_point until);
  void note_turn(Clock::time_point since) noexcept;
  void wind_down();

  Settings _settings;
  Duties _duties;
  std::shared_ptr<ucx::Worker> _serving;
  std::shared_ptr<ucx::Worker> _reading;
  TcpAddress _serving_address;
  TcpAddress _reading_address;
  std::shared_ptr<Inbox> _inbox = std::make_shared<Inbox>();
  std::atomic<bool> _stop{false};
  std::atomic<bool> _failed{false};
  Clock::time_point _next_tick;
  int _epoll = -1;
  std::thread _thread;
};

}  // namespace kvdirect
