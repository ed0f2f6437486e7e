// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "large_pages.h"
#include "random.h"

namespace kvdirect {

namespace {

// For a large cache; what is not done by then stays as it is.
constexpr auto large_pages_within = std::chrono::seconds(5);

EngineSettings checked(EngineSettings settings) {
  const auto bad = [](const std::string& message, const std::string& hint) {
    return Error(Errc::config, message, {.operation = "make an engine", .hint = hint});
  };
  if (settings.segment_bytes < limits::min_segment || settings.segment_bytes > limits::max_segment) {
    throw bad("segment_bytes=" + std::to_string(settings.segment_bytes) + " is out of range",
              "use " + std::to_string(limits::min_segment) + " to " + std::to_string(limits::max_segment));
  }
  if (settings.message_streams < 1 || settings.message_streams > limits::streams) {
    throw bad("message_streams=" + std::to_string(settings.message_streams) + " is out of range",
              "use 1 to " + std::to_string(limits::streams));
  }
  if (settings.admission.size() > limits::admission) {
    throw bad("admission has " + std::to_string(settings.admission.size()) + " bytes",
              "use at most " + std::to_string(limits::admission));
  }
  if (settings.name.size() > limits::name) throw bad("the name is too long", "use at most 256 bytes");
  if (settings.listen.empty()) throw bad("listen is empty", "name a network device, such as lo or eth0");
  for (const std::string& lane : settings.lanes) {
    const bool known = std::ranges::find(known_lanes, lane) != known_lanes.end();
    if (!known) throw bad("lanes: no lane is called " + lane, "use shm, cma, rdma and message");
  }
  if (settings.lanes.empty()) throw bad("lanes is empty", "use shm, cma, rdma and message");
  if (settings.admission.empty()) {
    settings.admission.resize(32);
    fill_random(settings.admission);
  }
  return settings;
}

}  // namespace

Engine::Engine(EngineSettings settings)
    : _settings(checked(std::move(settings))),
      _incarnation(random_u64()),
      _board(_incarnation, _settings.lease_slots, allows("shm") && !_settings.shm_directory.empty()),
      _leases(std::make_shared<LeaseTable>(_settings.lease_slots, LeaseTable::Seconds(_settings.max_hold),
                                           _board.words())) {
  start_workers();
  Serving::Self self{.incarnation = _incarnation,
                     .admission = _settings.admission,
                     .segment_bytes = _settings.segment_bytes,
                     .host = [this] { return host_access(); },
                     .rdma = [this] { return _rdma ? _rdma->access() : std::nullopt; },
                     .shm = [this] { return shm_access(); },
                     .published = [this] { return published(); }};
  for (const auto& worker : _workers) self.colleagues.push_back({worker->inbox(), worker->serving()});
  _serving = std::make_unique<Serving>(std::move(self), _leases, _counters);
  _reading = std::make_unique<Reading>(Reading::Self{_incarnation, _settings.name}, _counters);
  _bulk = std::make_shared<Bulk>(_settings.copy_threads);
  if (allows("rdma")) {
    try {
      _rdma = std::make_shared<RdmaDomain>(_settings.name, _settings.rdma_devices, _settings.rdma_staging);
    } catch (const Error& error) {
      _why_no_rdma = error.what();
    }
  } else {
    _why_no_rdma = "rdma does not work: it is not permitted here";
  }
  open_door();
  Progress::Duties duties;
  duties.start = [this](Progress& progress) {
    _serving->start(progress, _settings.listen);
    if (_door) _door->start(progress);
    _reading->start(progress);
    _address = _serving->address();
  };
  duties.pump = [this] {
    _reading->pump();
    return _serving->pump();
  };
  duties.tick = [this](Clock::time_point now) {
    const auto next = std::min(_serving->tick(now), _reading->tick(now));
    return _door ? std::min(next, _door->tick(now)) : next;
  };
  duties.stop = [this] {
    // Readers on this host must not take it for alive any longer, however it ends.
    _board.head().incarnation = 0;
    _reading->stop();
    _serving->stop();
    if (_door) _door->stop();
  };
  duties.parting = [this] { return _reading->parting(); };
  _progress =
      std::make_unique<Progress>(Progress::Settings{_settings.name, "kvd-control", _counters}, std::move(duties));
}

void Engine::start_workers() {
  for (unsigned stream = 1; stream < _settings.message_streams; ++stream) {
    Serving::Self self{
        .incarnation = _incarnation, .first = false, .segment_bytes = _settings.segment_bytes, .published = [this] {
          return published();
        }};
    _workers.push_back(std::make_unique<StreamWorker>(
        _settings.name, stream, std::make_unique<Serving>(std::move(self), _leases, _counters),
        std::make_unique<Reading>(Reading::Self{_incarnation, _settings.name}, _counters)));
  }
}

Engine::~Engine() {
  if (_process.here()) {
    close();
    return;
  }
  // A fork: the threads are not here, and the sockets are the parent's. Leaking is the only safe thing.
  static_cast<void>(_progress.release());
  for (auto& worker : _workers) static_cast<void>(worker.release());
  static_cast<void>(_serving.release());
  static_cast<void>(_reading.release());
  static_cast<void>(_door.release());
  static_cast<void>(new std::shared_ptr<Bulk>(_bulk));
  static_cast<void>(new std::shared_ptr<RdmaDomain>(_rdma));
}

void Engine::check_open(const char* operation) const {
  _process.check(operation);
  if (_closed) throw Error(Errc::closed, "the engine is closed", {.operation = operation});
  const auto failed = [](const auto& thread) { return thread && thread->failed(); };
  if (failed(_progress) || std::ranges::any_of(_workers, failed)) {
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
  _regions.push_back({reinterpret_cast<std::byte*>(address), length, memory});
  return static_cast<std::uint32_t>(_regions.size() - 1);
}

void Engine::publish(TensorMap map) {
  check_open("publish");
  const std::lock_guard publishing(_publishing);
  const auto published = describe(std::move(map));
  std::string why_no_shm;
  try {
    if (_door) published->shared = SharedRegions::of(published->regions);
  } catch (const Error& error) {
    why_no_shm = error.what();
  }
  // Copies between processes take up to twice as long where either side is on small pages.
  if (!published->shared && (allows("cma") || allows("shm"))) {
    const auto deadline = Clock::now() + large_pages_within;
    for (const Region& region : published->regions) {
      if (region.memory == MemoryKind::host) ask_for_large_pages(region.address, region.length, deadline);
    }
  }
  // May take seconds for a large cache; nobody else waits for it.
  std::string why_no_rdma;
  try {
    if (_rdma) _rdma->publish(published, _leases, {});  // RdmaGpu: what the engine's GPU offers belongs here
  } catch (const Error& error) {
    why_no_rdma = error.what();
  }
  const std::lock_guard lock(_mutex);
  if (!why_no_rdma.empty()) _why_no_rdma = why_no_rdma;
  if (!why_no_shm.empty()) _why_no_shm = why_no_shm;
  _published = published;
}

std::shared_ptr<Published> Engine::describe(TensorMap map) const {
  const std::lock_guard lock(_mutex);
  if (_published) throw Error(Errc::config, "publish() was called before", {.operation = "publish"});
  std::vector<std::uint64_t> lengths;
  for (const Region& region : _regions) lengths.push_back(region.length);
  map.validate(lengths);
  for (const Component& component : map.components) {
    if (component.memory == _regions[component.region].memory) continue;
    throw Error(Errc::config, "component " + component.name + " and its region name different kinds of memory",
                {.operation = "publish"});
  }
  return std::make_shared<Published>(Published{_regions, std::move(map), std::nullopt});
}

std::shared_ptr<const Published> Engine::published() const {
  const std::lock_guard lock(_mutex);
  return _published;
}

bool Engine::allows(const std::string& lane) const {
  return std::ranges::find(_settings.lanes, lane) != _settings.lanes.end();
}

std::optional<HostAccess> Engine::host_access() const {
  const auto map = published();
  if (!allows("cma") || !map) return std::nullopt;
  HostAccess host;
  host.pid = static_cast<std::uint64_t>(_process.pid());
  host.incarnation_address = reinterpret_cast<std::uint64_t>(&_board.head().incarnation);
  host.words_address = reinterpret_cast<std::uint64_t>(_leases->words().data());
  host.words = static_cast<std::uint32_t>(_leases->words().size());
  for (const Region& region : map->regions) host.regions.push_back(reinterpret_cast<std::uint64_t>(region.address));
  return host;
}

void Engine::open_door() {
  if (!_board.memory()) {
    _why_no_shm =
        _board.why_not_shared().empty() ? "shm does not work: it is not permitted here" : _board.why_not_shared();
    return;
  }
  try {
    _door = std::make_unique<ShmDoor>(_settings.shm_directory, _incarnation, [this] { return shown_to_visitors(); });
  } catch (const Error& error) {
    _why_no_shm = error.what();
  }
}

std::string Engine::why_no_shm() const {
  const std::lock_guard lock(_mutex);
  return _why_no_shm;
}

std::vector<int> Engine::shown_to_visitors() const {
  std::vector<int> descriptors{_board.memory()->fd()};
  for (const auto& memory : published()->shared->memories) descriptors.push_back(memory->fd());
  return descriptors;
}

std::optional<ShmAccess> Engine::shm_access() {
  const auto map = published();
  if (!_door || !map || !map->shared) return std::nullopt;
  ShmAccess access{_door->path(), _door->issue_ticket(), _board.head().nonce, _settings.lease_slots, {}, {}};
  for (const auto& memory : map->shared->memories) access.memories.push_back(memory->size());
  for (const auto& place : map->shared->places) access.regions.push_back({place.memory, place.offset});
  return access;
}

Bytes Engine::descriptor() {
  check_open("descriptor");
  const auto map = published();
  if (!map) {
    throw Error(Errc::config, "there is nothing to describe yet",
                {.operation = "descriptor", .hint = "publish() first"});
  }
  Descriptor descriptor;
  descriptor.incarnation = _incarnation;
  descriptor.name = _settings.name;
  descriptor.admission = _settings.admission;
  descriptor.host = _address.text();
  descriptor.port = _address.port;
  for (const Region& region : map->regions) descriptor.region_bytes.push_back(region.length);
  descriptor.map = map->map;
  return descriptor.encode();
}

void Engine::close() {
  _process.check("close");
  _closed = true;
  const std::lock_guard closing(_closing);
  if (std::exchange(_joined, true)) return;
  _leases->revoke_all();
  _board.head().incarnation = 0;
  std::vector<std::weak_ptr<Peer>> peers;
  {
    const std::lock_guard lock(_mutex);
    peers.swap(_peers);
  }
  const Error why(Errc::closed, "the engine was closed");
  for (const auto& weak : peers) {
    if (const auto peer = weak.lock()) peer->close(why);
  }
  _bulk->stop();
  if (_rdma) _rdma->stop();
  // All wind down at the same time.
  _progress->ask_to_stop();
  for (const auto& worker : _workers) worker->ask_to_stop();
  _progress->stop();
  for (const auto& worker : _workers) worker->stop();
}

}  // namespace kvdirect
