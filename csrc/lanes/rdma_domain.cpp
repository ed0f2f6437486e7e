// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/rdma_domain.h"

#include <algorithm>
#include <filesystem>
#include <future>
#include <numeric>
#include <utility>

#include "test_hooks.h"

namespace kvdirect {

namespace {

constexpr std::uint32_t scratch_slots = 1024;
constexpr auto registration_time = std::chrono::seconds(60);

Error unavailable(const std::string& why, const std::string& status = {}) {
  return {Errc::lane, "rdma does not work: " + why, {.operation = "prove lane", .status = status}};
}

bool has_rdma_devices() {
  std::error_code ignored;
  const std::filesystem::directory_iterator devices("/sys/class/infiniband", ignored);
  return begin(devices) != end(devices);
}

}  // namespace

void RdmaLink::close(const std::string& why) {
  if (!endpoint) return;
  lost = why;
  // Keys belong to the endpoint.
  regions.clear();
  board.clear();
  endpoint.reset();
}

RdmaDomain::RdmaDomain(std::string name, std::string devices) : _name(std::move(name)) {
  if (rdma_transports() == real_rdma && !has_rdma_devices()) throw unavailable("this machine has no RDMA device");
  Progress::Duties duties;
  duties.start = [this, devices](Progress& progress) { open_workers(progress, devices); };
  duties.pump = [this] { return pump(); };
  duties.tick = [this](Clock::time_point now) { return tick(now); };
  duties.may_sleep = [this] { return _serving->arm() && _reading->arm(); };
  duties.stop = [this] { let_go(); };
  duties.parting = [this] {
    static_cast<void>(tick(Clock::now()));
    return !_tasks.empty();
  };
  _progress = std::make_unique<Progress>(Progress::Settings{_name, "kvd-rdma", nullptr}, std::move(duties));
}

void RdmaDomain::open_workers(Progress& progress, const std::string& devices) {
  _running = &progress;
  ucx::Config config;
  config.set("TLS", rdma_transports());
  config.set("NET_DEVICES", devices);
  try {
    _context = std::make_shared<ucx::Context>(config, UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP, _name);
  } catch (const Error& error) {
    throw unavailable("UCX cannot use rdma_devices=" + devices, error.context().status);
  }
  _serving = std::make_shared<ucx::Worker>(_context);
  _reading = std::make_shared<ucx::Worker>(_context);
  for (const auto& worker : {_serving, _reading}) progress.reactor().add(worker->event_fd(), [](std::uint32_t) {});
  _nonce_memory = std::make_unique<ucx::Memory>(_context, _nonce.data(), _nonce.size(), true);
  _scratch.resize(words_of_scratch * scratch_slots);
  _scratch_memory =
      std::make_unique<ucx::Memory>(_context, _scratch.data(), _scratch.size() * sizeof(std::uint64_t), false);
  _free_scratch.resize(scratch_slots);
  std::iota(_free_scratch.begin(), _free_scratch.end(), 0U);
}

void RdmaDomain::publish(const std::shared_ptr<const Published>& published, const std::shared_ptr<LeaseTable>& leases) {
  auto promise = std::make_shared<std::promise<void>>();
  auto done = promise->get_future();
  const bool posted = post([this, published, leases, promise] {
    try {
      RdmaAccess access;
      access.worker_address = _serving->address();
      access.nonce = _nonce;
      for (const Region& region : published->regions) {
        _regions.push_back(std::make_unique<ucx::Memory>(_context, region.address, region.length, true));
        access.regions.push_back({reinterpret_cast<std::uint64_t>(region.address), _regions.back()->key()});
      }
      const auto words = leases->words();
      // UCX wants a pointer it could write through; with the right to read only, nobody can.
      auto* first = const_cast<LeaseWord*>(words.data());
      _words = std::make_unique<ucx::Memory>(_context, first, words.size_bytes(), true);
      access.words = {reinterpret_cast<std::uint64_t>(first), _words->key()};
      access.word_count = static_cast<std::uint32_t>(words.size());
      access.nonce_memory = {reinterpret_cast<std::uint64_t>(_nonce.data()), _nonce_memory->key()};
      const std::lock_guard lock(_mutex);
      _access = std::move(access);
      promise->set_value();
    } catch (...) {
      promise->set_exception(std::current_exception());
    }
  });
  if (!posted || done.wait_for(registration_time) != std::future_status::ready) {
    throw Error(Errc::transport, "the rdma thread does not answer", {.operation = "publish"});
  }
  done.get();
}

std::optional<RdmaAccess> RdmaDomain::access() const {
  const std::lock_guard lock(_mutex);
  return _access;
}

void RdmaDomain::stop() { _progress->stop(); }

std::shared_ptr<RdmaLink> RdmaDomain::open(const RdmaAccess& owner, const std::string& peer) {
  auto link = std::make_shared<RdmaLink>();
  link->peer = peer;
  std::function<void(ucs_status_t)> failed = [raw = link.get()](ucs_status_t status) {
    raw->lost = ucs_status_string(status);
  };
  if (rdma_transports() != real_rdma) failed = nullptr;  // those on one host have no failure detection
  link->endpoint = std::make_unique<ucx::Endpoint>(_reading, owner.worker_address, peer, std::move(failed));
  for (const auto& region : owner.regions) {
    link->regions.push_back({region.address, ucx::RemoteKey(*link->endpoint, region.key)});
  }
  for (const RemoteMemory& memory : {owner.words, owner.nonce_memory}) {
    link->board.push_back({memory.address, ucx::RemoteKey(*link->endpoint, memory.key)});
  }
  _links.push_back(link);
  return link;
}

void RdmaDomain::forget(const std::shared_ptr<RdmaLink>& link, const std::string& why) {
  link->close(why);
  std::erase(_links, link);
}

void RdmaDomain::start(std::shared_ptr<Task> task) {
  _tasks.push_back(std::move(task));
  look_again();
}

std::optional<std::uint32_t> RdmaDomain::take_scratch() {
  if (_free_scratch.empty()) return std::nullopt;
  const std::uint32_t slot = _free_scratch.back();
  _free_scratch.pop_back();
  return slot;
}

bool RdmaDomain::pump() {
  bool busy = false;
  for (int turn = 0; turn < 64; ++turn) {
    const bool serving = _serving->progress();
    const bool reading = _reading->progress();
    if (!serving && !reading) break;
    busy = true;
  }
  // Endpoints are closed outside UCX's callbacks.
  for (const auto& link : _links) {
    if (link->endpoint && !link->lost.empty()) link->close(link->lost);
  }
  if (busy) _running->tick_by(tick(Clock::now()));
  return busy;
}

RdmaDomain::Clock::time_point RdmaDomain::tick(Clock::time_point now) {
  auto next = Clock::time_point::max();
  _tasks.remove_if([&](const std::shared_ptr<Task>& task) {
    const auto again = task->step(now);
    if (again) next = std::min(next, *again);
    return !again;
  });
  return next;
}

void RdmaDomain::let_go() {
  for (const auto& link : std::exchange(_links, {})) link->close("the engine was closed");
}

}  // namespace kvdirect
