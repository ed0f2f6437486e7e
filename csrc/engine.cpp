// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "engine.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "base/mac.h"
#include "base/random.h"
#include "test_hooks.h"

namespace kvdirect {

namespace {

// Between two looks at whether a forward is through: far less than that takes.
constexpr auto poll_interval = std::chrono::microseconds(50);

// For readers to take away what they have mapped of an engine that closes: far more than it takes one that is not
// stopped.
constexpr auto let_go_time = std::chrono::seconds(5);

// Raises watermarks once a GPU has done what it was given.
class Raise final : public CopyPool::Task {
 public:
  Raise(std::shared_ptr<LeaseTable> leases, Watermarks watermarks, std::shared_ptr<const DeviceEvent> event)
      : _leases(std::move(leases)), _watermarks(std::move(watermarks)), _event(std::move(event)) {}

  std::optional<Clock::time_point> step() noexcept override {
    // Those that ended while the GPU worked nobody reads, and the engine may be closing.
    std::erase_if(_watermarks,
                  [this](const auto& one) { return _leases->verdict(one.first, 0) == LeaseVerdict::expired; });
    if (_watermarks.empty()) return std::nullopt;
    if (!passed()) return Clock::now() + poll_interval;
    for (const auto& [lease, positions] : _watermarks) finish(lease, positions);
    return std::nullopt;
  }

 private:
  void finish(LeaseRef lease, std::uint64_t positions) noexcept {
    try {
      if (!_failed) return _leases->raise_watermark(lease, positions);
      // What the GPU was to write will never be there.
      static_cast<void>(_leases->revoke(lease));
    } catch (const Error&) {
      // It ended just now.
    }
  }

  bool passed() noexcept {
    try {
      return _event->passed();
    } catch (const Error&) {
      return _failed = true;
    }
  }

  std::shared_ptr<LeaseTable> _leases;
  Watermarks _watermarks;
  std::shared_ptr<const DeviceEvent> _event;
  bool _failed = false;
};

EngineSettings checked(EngineSettings settings) {
  const auto bad = [](const std::string& message, const std::string& hint) {
    return Error(Errc::config, message, {.operation = "make an engine", .hint = hint});
  };
  static_cast<void>(mac_library());  // without one nobody could be admitted
  if (settings.admission.empty()) {
    settings.admission.resize(32);
    fill_random(settings.admission);
  }
  for (const SettingLimit& limit : setting_limits) {
    const std::uint64_t value = limit.of(settings);
    if (value >= limit.least && value <= limit.most) continue;
    throw bad(std::string(limit.name) + "=" + std::to_string(value) + " is out of range",
              "use " + std::to_string(limit.least) + " to " + std::to_string(limit.most));
  }
  if (settings.name.size() > limits::name) throw bad("the name is too long", "use at most 256 bytes");
  if (settings.listen.empty()) throw bad("listen is empty", "name a network device, such as lo or eth0");
  for (const std::string& lane : settings.lanes) {
    const bool known = std::ranges::find(known_lanes, lane) != known_lanes.end();
    if (!known) throw bad("lanes: no lane is called " + lane, "use cuda_ipc, shm, cma, rdma and message");
  }
  if (settings.lanes.empty()) throw bad("lanes is empty", "use cuda_ipc, shm, cma, rdma and message");
  return settings;
}

}  // namespace

Engine::Engine(EngineSettings settings)
    : _settings(checked(std::move(settings))),
      _incarnation(random_u64()),
      _control_page(_incarnation, _settings.lease_slots,
                    (allows("shm") || allows("cuda_ipc")) && !_settings.shm_directory.empty()),
      _leases(std::make_shared<LeaseTable>(_settings.lease_slots, LeaseTable::Seconds(_settings.max_hold),
                                           _control_page.words())) {
  const auto extents = std::make_shared<LeaseExtents>(_leases);
  const auto budget = std::make_shared<RunBudget>();
  start_workers(extents, budget);
  OwnerSessions::Options options{.incarnation = _incarnation,
                                 .admission = _settings.admission,
                                 .segment_bytes = _settings.segment_bytes,
                                 .extents = extents,
                                 .budget = budget,
                                 .notes = _notes,
                                 .host = [this] { return host_access(); },
                                 .rdma = [this] { return _rdma ? _rdma->access() : std::nullopt; },
                                 .shm = [this] { return shm_access(); },
                                 .cuda = [this] { return cuda_access(); },
                                 .forget_secret = [this](const Token& secret) { _handoff->forget_secret(secret); },
                                 .published = [this] { return published(); }};
  for (const auto& worker : _workers) options.siblings.push_back({worker->commands(), worker->owner()});
  _owner = std::make_unique<OwnerSessions>(std::move(options), _leases, _counters);
  _reader = std::make_unique<ReaderSessions>(_incarnation, _settings.name, _counters);
  _pool = std::make_shared<CopyPool>(_settings.copy_threads);
  open_lanes();
  EventThread::Callbacks callbacks;
  callbacks.start = [this](EventThread& thread) {
    _owner->start(thread, _settings.listen);
    if (_handoff) _handoff->start(thread);
    _reader->start(thread);
    _address = _owner->address();
  };
  callbacks.poll = [this] {
    _reader->poll();
    return _owner->poll();
  };
  callbacks.tick = [this](Clock::time_point now) {
    const auto next = std::min(_owner->tick(now), _reader->tick(now));
    return _handoff ? std::min(next, _handoff->tick(now)) : next;
  };
  callbacks.stop = [this] {
    // Readers on this host must not take it for alive any longer, however it ends.
    _control_page.head().incarnation = 0;
    _reader->stop();
    _owner->stop();
    if (_handoff) _handoff->stop();
  };
  callbacks.lingering = [this] { return _reader->lingering(); };
  _event_thread = std::make_unique<EventThread>(EventThread::Settings{_settings.name, "kvd-control", _counters},
                                                std::move(callbacks));
}

void Engine::start_workers(const std::shared_ptr<LeaseExtents>& extents, const std::shared_ptr<RunBudget>& budget) {
  for (unsigned stream = 1; stream < _settings.message_streams; ++stream) {
    OwnerSessions::Options options{.incarnation = _incarnation,
                                   .first = false,
                                   .segment_bytes = _settings.segment_bytes,
                                   .extents = extents,
                                   .budget = budget,
                                   .published = [this] { return published(); }};
    _workers.push_back(std::make_unique<StreamWorker>(
        _settings.name, stream, std::make_unique<OwnerSessions>(std::move(options), _leases, _counters),
        std::make_unique<ReaderSessions>(_incarnation, _settings.name, _counters)));
  }
}

Engine::~Engine() {
  if (_process.here()) {
    close();
    return;
  }
  // A fork: the threads are not here, and the sockets are the parent's. Leaking is the only safe thing.
  static_cast<void>(_event_thread.release());
  for (auto& worker : _workers) static_cast<void>(worker.release());
  static_cast<void>(_owner.release());
  static_cast<void>(_reader.release());
  static_cast<void>(_handoff.release());
  static_cast<void>(new std::shared_ptr<CopyPool>(_pool));
  static_cast<void>(new OnGpu(_on_gpu));
  static_cast<void>(new std::shared_ptr<const Published>(_published));
  static_cast<void>(new std::shared_ptr<RdmaDomain>(_rdma));
}

void Engine::check_open(const char* operation) const {
  _process.check(operation);
  if (_closed) throw Error(Errc::closed, "the engine is closed", {.operation = operation});
  const auto failed = [](const auto& thread) { return thread && thread->failed(); };
  if (failed(_event_thread) || std::ranges::any_of(_workers, failed)) {
    throw Error(Errc::closed, "a thread of the engine ended after an error, which it printed",
                {.operation = operation, .hint = "make a new engine"});
  }
}

std::uint32_t Engine::register_region(std::uint64_t address, std::uint64_t length, MemoryKind memory) {
  check_open("register");
  const std::lock_guard lock(_mutex);
  if (_published) {
    throw Error(Errc::config, "regions are registered before publish()", {.operation = "register"});
  }
  if (address == 0 || length == 0 || address + length < address) {
    throw Error(Errc::config, "the region is empty or wraps around", {.operation = "register"});
  }
  if (_regions.size() >= limits::regions) {
    throw Error(Errc::config, "too many regions", {.operation = "register", .hint = "register whole allocations"});
  }
  const bool is_device = memory == MemoryKind::cuda && cuda_regions() == CudaRegions::real;
  if (is_device && _on_gpu.gpu) {
    _on_gpu.gpu->check_holds(address, length);
  } else if (is_device) {
    _on_gpu = OnGpu{Gpu::holding(address, length, _settings.gpu), std::make_shared<CopyPool>(1)};
  }
  _regions.push_back({reinterpret_cast<std::byte*>(address), length, memory});
  return static_cast<std::uint32_t>(_regions.size() - 1);
}

Engine::OnGpu Engine::on_gpu() const {
  const std::lock_guard lock(_mutex);
  return _on_gpu;
}

bool Engine::allows(const std::string& lane) const {
  return std::ranges::find(_settings.lanes, lane) != _settings.lanes.end();
}

void Engine::raise_watermarks_after(Watermarks watermarks, std::uint64_t stream) {
  check_open("raise_watermark");
  const auto [gpu, pool] = on_gpu();
  if (!gpu) {
    throw Error(Errc::config, "stream was given, and this engine has no memory on a GPU",
                {.operation = "raise_watermark", .hint = "leave it out"});
  }
  static_cast<void>(
      pool->submit(std::make_shared<Raise>(_leases, std::move(watermarks), gpu->record_event(stream)), {}));
}

std::uint64_t Engine::fence_stream() const {
  check_open("fence_stream");
  if (const auto gpu = on_gpu().gpu) return gpu->fence_stream();
  throw Error(Errc::config, "this engine has no memory on a GPU, and so no stream there",
              {.operation = "fence_stream", .hint = "register the GPU's memory first"});
}

void Engine::close() {
  _process.check("close");
  _closed = true;
  const std::lock_guard closing(_closing);
  if (std::exchange(_joined, true)) return;
  _leases->revoke_all();
  _control_page.head().incarnation = 0;
  std::vector<std::weak_ptr<Peer>> peers;
  {
    const std::lock_guard lock(_mutex);
    peers.swap(_peers);
  }
  const Error why(Errc::closed, "the engine was closed");
  for (const auto& weak : peers) {
    if (const auto peer = weak.lock()) peer->close(why);
  }
  _notes->close();
  _pool->stop();
  if (_rdma) _rdma->stop();
  // All wind down at the same time.
  _event_thread->ask_to_stop();
  for (const auto& worker : _workers) worker->ask_to_stop();
  _event_thread->stop();
  for (const auto& worker : _workers) worker->stop();
  // After the sessions: as long as one that is just being made stands, its owner's memory is watched over.
  if (const auto pool = on_gpu().pool) pool->stop();
  // After our own mappings have gone: the owners of those may be waiting, too.
  if (_handoff) static_cast<void>(_handoff->mapping(Clock::now() + let_go_time));
}

std::size_t Engine::readers_mapping() {
  _process.check("close");
  return _closed && _handoff ? _handoff->mapping(Clock::now()) : 0;
}

}  // namespace kvdirect
