// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "progress.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include "shield.h"
#include "threads.h"

namespace kvdirect {

namespace {

constexpr unsigned known_message_ids = 32;
constexpr auto wind_down_time = std::chrono::milliseconds(500);
// "eth0" takes the device's IPv4 address where it has one, "eth0/ipv6" never does.
constexpr std::string_view ipv6_suffix = "/ipv6";

std::shared_ptr<ucx::Context> open_context(const std::string& name, const std::string& listen, std::uint64_t segment) {
  const bool ipv6 = listen.ends_with(ipv6_suffix);
  ucx::Config config;
  config.set("TLS", "tcp");
  config.set("NET_DEVICES", listen.substr(0, listen.size() - (ipv6 ? ipv6_suffix.size() : 0)));
  config.set("TCP_AF_PRIO", ipv6 ? "inet6" : "inet,inet6");
  config.set("TCP_TX_SEG_SIZE", std::to_string(segment));
  config.set("TCP_RX_SEG_SIZE", std::to_string(segment));
  // One message is one copy into one segment, and nothing ever names an address to the other side.
  config.set("ZCOPY_THRESH", "inf");
  config.set("RNDV_THRESH", "inf");
  // The control thread must not wait in connect() for a host that does not answer.
  config.set("TCP_CONN_NB", "y");
  // The newer protocol selection asks the kernel for the device's speed a hundred times for each new connection, each
  // time behind a lock that whoever sets up containers holds for long; the older one is done in a fifth of the time.
  config.set("PROTO_ENABLE", "n");
  // Data of one pull arrives in order.
  config.set("MAX_EAGER_LANES", "1");
  try {
    return std::make_shared<ucx::Context>(config, UCP_FEATURE_AM | UCP_FEATURE_WAKEUP, name);
  } catch (const Error& error) {
    throw Error(Errc::config, "UCX cannot use the network device listen=" + listen,
                {.operation = "start engine",
                 .status = error.context().status,
                 .hint = std::string("Name a device that is up, such as lo or eth0 (`ip address` lists them)") +
                         (ipv6 ? ", and that has an IPv6 address" : "")});
  }
}

int checked(int result, const char* operation) {
  if (result >= 0) return result;
  throw Error(Errc::transport, "the kernel refused", {.operation = operation, .status = strerror(errno)});
}

}  // namespace

Inbox::Inbox() : _event(checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {}

Inbox::~Inbox() { ::close(_event); }

bool Inbox::post(std::function<void()> command) {
  {
    const std::lock_guard lock(_mutex);
    if (_closed) return false;
    _commands.push_back(std::move(command));
  }
  wake();
  return true;
}

void Inbox::wake() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(_event, &one, sizeof one);
}

std::vector<std::function<void()>> Inbox::take() {
  const std::lock_guard lock(_mutex);
  return std::exchange(_commands, {});
}

bool Inbox::close_if_empty() {
  const std::lock_guard lock(_mutex);
  _closed = _commands.empty();
  return _closed;
}

void Inbox::drain_event() noexcept {
  std::uint64_t ignored = 0;
  [[maybe_unused]] const ssize_t got = read(_event, &ignored, sizeof ignored);
}

Progress::Progress(Settings settings, Duties duties) : _settings(std::move(settings)), _duties(std::move(duties)) {
  std::promise<void> started;
  auto ready = started.get_future();
  _thread = std::thread([this, promise = std::move(started)]() mutable { run(std::move(promise)); });
  try {
    ready.get();
  } catch (...) {
    _thread.join();
    throw;
  }
}

void Progress::open() {
  _epoll = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  auto context = open_context(_settings.name, _settings.device, _settings.segment_bytes);
  const auto rejected = [this] {
    if (on_rejected) on_rejected();
  };
  const auto make_worker = [&] { return std::make_shared<ucx::Worker>(context, rejected); };
  _serving = shielded_worker(make_worker, _serving_address);
  _reading = shielded_worker(make_worker, _reading_address);
  // UCX prints a line for each message nobody listens to, which a stranger could send without end.
  for (unsigned id = 0; id < known_message_ids; ++id) {
    _serving->on_message(id, [rejected](auto, auto) { rejected(); });
    _reading->on_message(id, [rejected](auto, auto) { rejected(); });
  }
  for (const int fd : {_inbox->event(), _serving->event_fd(), _reading->event_fd()}) watch(fd);
}

void Progress::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  checked(epoll_ctl(_epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

void Progress::run(std::promise<void> started) {
  block_signals();
  name_thread("kvd-control");
  try {
    open();
    _duties.start(*this);
    started.set_value();
  } catch (...) {
    started.set_exception(std::current_exception());
    _stop.store(true, std::memory_order_release);
  }
  if (!_stop.load(std::memory_order_acquire)) {
    try {
      loop();
    } catch (const std::exception& error) {
      // UCX or the kernel let go of us: everything that runs is failed below instead of hanging.
      _failed.store(true, std::memory_order_release);
      std::fprintf(stderr, "kvtransfer: the control thread of engine '%s' ends: %s\n", _settings.name.c_str(),
                   error.what());
    }
    wind_down();
  }
  while (!_inbox->close_if_empty()) run_commands();
  _serving.reset();
  _reading.reset();
  if (_epoll >= 0) ::close(_epoll);
}

void Progress::loop() {
  _next_tick = Clock::now();
  while (!_stop.load(std::memory_order_acquire)) {
    const auto began = Clock::now();
    const bool busy = work();
    const auto now = Clock::now();
    if (!busy && now >= _next_tick) {
      _next_tick = Clock::time_point::max();
      tick_by(_duties.tick(now));
    }
    note_turn(began);
    if (busy || Clock::now() >= _next_tick) continue;
    const auto until = _next_tick;
    sleep(until);
    note_turn(until);
  }
}

void Progress::note_turn(Clock::time_point since) noexcept {
  const auto turn = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - since).count();
  if (turn > 0) _settings.counters->note_turn(static_cast<std::uint64_t>(turn));
}

bool Progress::run_commands() {
  auto commands = _inbox->take();
  for (auto& command : commands) {
    try {
      command();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "kvtransfer: engine '%s': %s\n", _settings.name.c_str(), error.what());
    }
  }
  return !commands.empty();
}

bool Progress::work() {
  bool busy = run_commands();
  // A bounded number of turns, so that one busy peer cannot keep commands and deadlines waiting.
  for (int turn = 0; turn < 64; ++turn) {
    const bool serving = _serving->progress();
    const bool reading = _reading->progress();
    if (!serving && !reading) break;
    busy = true;
  }
  if (_duties.pump()) busy = true;
  if (busy && Clock::now() >= _next_tick) {
    _next_tick = Clock::time_point::max();
    tick_by(_duties.tick(Clock::now()));
  }
  return busy;
}

void Progress::sleep(Clock::time_point until) {
  if (!_serving->arm() || !_reading->arm()) return;
  // Rounded up: waking early would only go round again.
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  std::array<epoll_event, 4> events{};
  const int count = epoll_wait(_epoll, events.data(), static_cast<int>(events.size()),
                               static_cast<int>(std::clamp<std::int64_t>(left, 0, 10'000)));
  for (int i = 0; i < count; ++i) {
    if (events.at(static_cast<std::size_t>(i)).data.fd == _inbox->event()) _inbox->drain_event();
  }
}

void Progress::wind_down() {
  _duties.stop();
  // Forced closes and goodbyes need a few turns.
  const auto deadline = Clock::now() + wind_down_time;
  int idle = 0;
  while (idle < 20 && Clock::now() < deadline) {
    if (_serving->progress() || _reading->progress()) {
      idle = 0;
    } else {
      ++idle;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
}

void Progress::tick_by(Clock::time_point when) noexcept { _next_tick = std::min(_next_tick, when); }

void Progress::stop() {
  if (!_thread.joinable()) return;
  _stop.store(true, std::memory_order_release);
  _inbox->wake();
  _thread.join();
}

}  // namespace kvdirect
