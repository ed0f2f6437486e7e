// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <chrono>
#include <utility>

#include "engine.h"
#include "memory/large_pages.h"

// What an engine publishes, and how readers get at it lane by lane.
namespace kvdirect {

namespace {

// For a large cache; what is not done by then stays as it is.
constexpr auto large_pages_within = std::chrono::seconds(5);

bool is_host(const Region& region) noexcept { return region.memory == MemoryKind::host; }

// What kept this from being done; empty if it was.
template <class Action>
std::string why_not(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

void Engine::publish(TensorMap map) {
  check_open("publish");
  const std::lock_guard publishing(_publishing);
  const auto published = describe(std::move(map));
  share(*published);
  // Copies between processes take up to twice as long where either side is on small pages.
  if (!published->shared && (allows("cma") || allows("shm"))) {
    const auto deadline = Clock::now() + large_pages_within;
    for (const Region& region : published->regions) {
      if (is_host(region)) ask_for_large_pages(region.address, region.length, deadline);
    }
  }
  // May take seconds for a large cache; nobody else waits for it.
  const std::string why_no_rdma = why_not([&] {
    if (_rdma) _rdma->publish(published, _leases, on_gpu().gpu);
  });
  const std::lock_guard lock(_mutex);
  if (!why_no_rdma.empty()) _why_no_rdma = why_no_rdma;
  _published = published;
}

void Engine::share(Published& published) {
  const auto attempt = [this](const char* lane, bool wanted, const auto& action) {
    if (!_handoff || !allows(lane) || !wanted) return;
    const std::string why = why_not(action);
    const std::lock_guard lock(_mutex);
    if (!why.empty()) _problems[lane] = why;
  };
  attempt("shm", std::ranges::any_of(published.regions, is_host),
          [&] { published.shared = SharedRegions::of(published.regions); });
  const auto gpu = on_gpu().gpu;
  attempt("cuda_ipc", gpu != nullptr,
          [&] { published.on_gpu = gpu->share(published.regions, _control_page.head().nonce); });
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
  return std::make_shared<Published>(Published{_regions, std::move(map), std::nullopt, nullptr});
}

std::shared_ptr<const Published> Engine::published() const {
  const std::lock_guard lock(_mutex);
  return _published;
}

std::optional<HostAccess> Engine::host_access() const {
  const auto map = published();
  if (!allows("cma") || !map) return std::nullopt;
  HostAccess host;
  host.pid = static_cast<std::uint64_t>(_process.pid());
  host.incarnation_address = reinterpret_cast<std::uint64_t>(&_control_page.head().incarnation);
  host.words_address = reinterpret_cast<std::uint64_t>(_leases->words().data());
  host.words = static_cast<std::uint32_t>(_leases->words().size());
  for (const Region& region : map->regions) host.regions.push_back(reinterpret_cast<std::uint64_t>(region.address));
  return host;
}

void Engine::open_lanes() {
  _why_no_rdma = "it is not permitted here";
  if (allows("rdma")) {
    _why_no_rdma = why_not([this] {
      _rdma = std::make_shared<RdmaDomain>(_settings.name, _settings.rdma_devices, _settings.rdma_staging);
    });
  }
  _why_no_handoff = _control_page.why_not_shared();
  if (!_control_page.memory()) return;
  _why_no_handoff =
      why_not([this] { _handoff = std::make_unique<HandoffServer>(_settings.shm_directory, _incarnation); });
}

std::map<std::string, std::string> Engine::lane_problems() const {
  const std::lock_guard lock(_mutex);
  auto problems = _problems;
  const auto add = [&](const std::string& lane) {
    if (!allows(lane)) {
      problems[lane] = lane_error(lane, "it is not permitted here").what();
    } else if (!_handoff) {
      problems[lane] = lane_error(lane, _why_no_handoff).what();
    }
  };
  if (_regions.empty() || std::ranges::any_of(_regions, is_host)) add("shm");
  if (_on_gpu.gpu) add("cuda_ipc");
  if (const auto why = _rdma ? _rdma->why_no_cuda() : ""; !why.empty()) problems["rdma"] = why;
  return problems;
}

HandoffAccess Engine::handoff_access(HandoffServer::DescriptorSource descriptor_source, bool maps) {
  const auto with_control_page = [control_page = _control_page.memory(),
                                  descriptor_source = std::move(descriptor_source)] {
    std::vector<int> descriptors = descriptor_source();
    descriptors.insert(descriptors.begin(), control_page->fd());
    return descriptors;
  };
  return {_handoff->path(), _handoff->issue_secret(with_control_page, maps), _control_page.head().nonce,
          _settings.lease_slots};
}

std::optional<ShmAccess> Engine::shm_access() {
  const auto map = published();
  if (!_handoff || !map || !map->shared) return std::nullopt;
  ShmAccess access{handoff_access(
                       [map] {
                         std::vector<int> descriptors;
                         for (const auto& memory : map->shared->memories) descriptors.push_back(memory->fd());
                         return descriptors;
                       },
                       false),
                   {},
                   {}};
  for (const auto& memory : map->shared->memories) access.memories.push_back(memory->size());
  for (const auto& place : map->shared->places) access.regions.push_back({place.memory, place.offset});
  return access;
}

std::optional<CudaAccess> Engine::cuda_access() {
  const auto map = published();
  if (!_handoff || !map || !map->on_gpu) return std::nullopt;
  CudaAccess access = map->on_gpu->access();
  access.handoff = handoff_access([map] { return map->on_gpu->descriptors(); }, true);
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
  descriptor.admission.key = _settings.admission;
  descriptor.host = _address.text();
  descriptor.port = _address.port;
  for (const Region& region : map->regions) descriptor.region_bytes.push_back(region.length);
  descriptor.map = map->map;
  return descriptor.encode();
}

}  // namespace kvdirect
