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
constexpr auto own_read_time = std::chrono::seconds(5);
constexpr std::size_t own_read_bytes = 4096;
constexpr auto gpu_direct_hint =
    "load nvidia_peermem, or have dmabuf: Linux 5.12, open GPU kernel modules, and a UCX built with CUDA, verbs and "
    "dmabuf; kvdirect doctor says what is missing";

Error unavailable(const std::string& why, const std::string& status = {}) {
  return {Errc::lane, why, {.status = status}};
}

bool has_rdma_devices() {
  std::error_code ignored;
  const std::filesystem::directory_iterator devices("/sys/class/infiniband", ignored);
  return begin(devices) != end(devices);
}

bool has_cuda(const Published& published) {
  return std::ranges::any_of(published.regions, [](const Region& one) { return one.memory == MemoryKind::cuda; });
}

ucs_memory_type_t memory_type(const Region& region) {
  const bool device = region.memory == MemoryKind::cuda && cuda_regions() != CudaRegions::host;
  return device ? UCS_MEMORY_TYPE_CUDA : UCS_MEMORY_TYPE_HOST;
}

// UCX finds out what GPU memory is, and exports it as dmabuf, in its transport cuda_copy (ucp_context.c takes the
// memory domains of allowed transports only).
void prepare_for_cuda(ucx::Config& config) {
  config.set("TLS", rdma_transports() + ",cuda_copy");
  // All memory is registered once and for as long as the engine lives. A cache of registrations would only add hooks
  // to the functions with which torch frees memory.
  config.set("RCACHE_ENABLE", "n");
}

// With cuda_copy UCX could also stage through host memory, without a word: protocols get/am (the owner's processor
// sends) and the rendezvous pipelines. Of the two that are left get/zcopy is the network card's own read into
// registered memory, and get/bcopy the same into host memory for small sizes (get_offload.c, and
// ucp_proto_common_check_mem_access). What neither can do ends with an error, for which UCX needs its protocol
// "reconfig": without it 1.19 and 1.21 crash.
void allow_gpu_direct_only(ucx::Config& config) {
  config.set("PROTOS", "get/zcopy,get/bcopy,reconfig");
  // Answers of up to 64 bytes come in the completion itself, which only the processor can copy to where they belong:
  // get/zcopy begins above that size, and no pull into GPU memory may depend on the size of its runs.
  for (const char* transport : {"RC_VERBS", "RC_MLX5", "DC_MLX5"}) {
    if (rdma_transports() == real_rdma) config.set_if_known(std::string(transport) + "_TX_INLINE_RESP", "0");
  }
}

}  // namespace

void RdmaLink::close(const std::string& why) {
  if (!endpoint) return;
  lost = why;
  // Keys belong to the endpoint.
  regions.clear();
  control_page.clear();
  endpoint.reset();
}

RdmaDomain::RdmaDomain(std::string name, std::string devices, bool staging)
    : _name(std::move(name)), _devices(std::move(devices)), _staging(staging) {
  if (rdma_transports() == real_rdma && !has_rdma_devices()) throw unavailable("this machine has no RDMA device");
  EventThread::Callbacks callbacks;
  callbacks.start = [this](EventThread& thread) { _running = &thread; };
  callbacks.poll = [this] { return poll(); };
  callbacks.tick = [this](Clock::time_point now) { return tick(now); };
  callbacks.may_sleep = [this] { return !_owner_worker || (_owner_worker->arm() && _reader_worker->arm()); };
  callbacks.stop = [this] {
    for (const auto& link : std::exchange(_links, {})) link->close("the engine was closed");
  };
  callbacks.lingering = [this] {
    static_cast<void>(tick(Clock::now()));
    return !_reads.empty();
  };
  _event_thread =
      std::make_unique<EventThread>(EventThread::Settings{_name, "kvd-rdma", nullptr}, std::move(callbacks));
}

void RdmaDomain::open_workers(bool with_cuda) {
  ucx::Config config;
  config.set("TLS", rdma_transports());
  config.set("NET_DEVICES", _devices);
  if (with_cuda) prepare_for_cuda(config);
  if (with_cuda && !_staging) allow_gpu_direct_only(config);
  try {
    _context = std::make_shared<ucx::Context>(config, UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP, _name);
  } catch (const Error& error) {
    throw unavailable("UCX cannot use rdma_devices=" + _devices, error.context().status);
  }
  _reader_worker = std::make_shared<ucx::Worker>(_context);
  _owner_worker = std::make_shared<ucx::Worker>(_context);
  for (const auto& worker : {_owner_worker, _reader_worker})
    _running->reactor().add(worker->event_fd(), [](std::uint32_t) {});
  _nonce_memory = std::make_unique<ucx::Memory>(_context, ucx::Memory::Range{_nonce.data(), _nonce.size()}, true);
  _scratch.resize(words_of_scratch * scratch_slots);
  const ucx::Memory::Range scratch{_scratch.data(), _scratch.size() * sizeof(std::uint64_t)};
  _scratch_memory = std::make_unique<ucx::Memory>(_context, scratch, false);
  _free_scratch.resize(scratch_slots);
  std::iota(_free_scratch.begin(), _free_scratch.end(), 0U);
}

void RdmaDomain::publish(const std::shared_ptr<const Published>& published, const std::shared_ptr<LeaseTable>& leases,
                         const std::shared_ptr<const Gpu>& gpu) {
  auto promise = std::make_shared<std::promise<void>>();
  auto done = promise->get_future();
  const bool posted = post([this, published, leases, gpu, promise] {
    try {
      _gpu = gpu;
      // UCX picks the network card near the GPU whose context is current where an endpoint is made.
      if (_gpu) _gpu->enter();
      open_workers(has_cuda(*published));
      RdmaAccess access = register_all(*published, *leases);
      const std::lock_guard lock(_mutex);
      if (_gpu) _why_no_flush = _gpu->why_no_flush();
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

RdmaAccess RdmaDomain::register_all(const Published& published, LeaseTable& leases) {
  std::string why_no_cuda;
  for (std::size_t i = 0; i < published.regions.size(); ++i) {
    const Region& region = published.regions[i];
    _regions.push_back(nullptr);
    if (region.memory == MemoryKind::cuda && !why_no_cuda.empty()) continue;
    try {
      register_region(i, region);
    } catch (const Error& error) {
      if (region.memory != MemoryKind::cuda) throw;
      why_no_cuda = error.what();
    }
  }
  RdmaAccess access;
  access.worker_address = _owner_worker->address();
  access.nonce = _nonce;
  for (std::size_t i = 0; i < published.regions.size(); ++i) {
    // Some GPU memory without the rest would only be found out about pull by pull.
    if (published.regions[i].memory == MemoryKind::cuda && !why_no_cuda.empty()) _regions[i].reset();
    access.regions.push_back(
        {reinterpret_cast<std::uint64_t>(published.regions[i].address), _regions[i] ? _regions[i]->key() : Bytes{}});
  }
  const auto words = leases.words();
  // UCX wants a pointer it could write through; with the right to read only, nobody can.
  auto* first = const_cast<LeaseWord*>(words.data());
  _words = std::make_unique<ucx::Memory>(_context, ucx::Memory::Range{first, words.size_bytes()}, true);
  access.words = {reinterpret_cast<std::uint64_t>(first), _words->key()};
  access.word_count = static_cast<std::uint32_t>(words.size());
  access.nonce_memory = {reinterpret_cast<std::uint64_t>(_nonce.data()), _nonce_memory->key()};
  const std::lock_guard lock(_mutex);
  _why_no_cuda = why_no_cuda;
  return access;
}

void RdmaDomain::register_region(std::size_t index, const Region& region) {
  const ucs_memory_type_t type = memory_type(region);
  const auto refuse = [index](const std::string& why, const std::string& status = {}) {
    return Error(Errc::lane, "region " + std::to_string(index) + " is CUDA memory, and " + why,
                 {.status = status, .hint = gpu_direct_hint});
  };
  if (!_context->knows(type)) throw refuse("this UCX, with the transports " + rdma_transports() + ", has no CUDA");
  try {
    _regions[index] =
        std::make_unique<ucx::Memory>(_context, ucx::Memory::Range{region.address, region.length, type}, true);
  } catch (const Error& error) {
    if (region.memory != MemoryKind::cuda) throw;
    throw refuse("no network card takes it", error.context().status);
  }
  if (region.memory != MemoryKind::cuda) return;
  try {
    read_own(index, region);
  } catch (const Error& error) {
    throw refuse("a network card here cannot read it", error.context().status);
  }
}

// UCX registers with every memory domain that takes the memory, which need not be a network card's, and a registration
// may succeed of which the first read fails. So a card reads a little of it, from us to us.
void RdmaDomain::read_own(std::size_t index, const Region& region) {
  ucx::Endpoint itself(_reader_worker, _owner_worker->address(), _name, nullptr);
  const ucx::RemoteKey key(itself, _regions[index]->key());
  const auto ended = std::make_shared<std::optional<ucs_status_t>>();
  itself.get(_scratch.data(), *_scratch_memory, std::min<std::size_t>(region.length, own_read_bytes),
             reinterpret_cast<std::uint64_t>(region.address), key, [ended](ucs_status_t status) { *ended = status; });
  const auto deadline = Clock::now() + own_read_time;
  while (!ended->has_value() && Clock::now() < deadline) {
    _owner_worker->progress();
    _reader_worker->progress();
  }
  ucx::check(ended->value_or(UCS_ERR_TIMED_OUT), "read own memory");
}

std::string RdmaDomain::why_no_cuda() const {
  const std::lock_guard lock(_mutex);
  return _why_no_cuda;
}

std::string RdmaDomain::why_not_into_cuda() const {
  const std::lock_guard lock(_mutex);
  return _why_no_flush.empty() ? _why_no_cuda : _why_no_flush;
}

std::optional<RdmaAccess> RdmaDomain::access() const {
  const std::lock_guard lock(_mutex);
  return _access;
}

std::shared_ptr<RdmaLink> RdmaDomain::open(const RdmaAccess& owner, const std::string& peer) {
  auto link = std::make_shared<RdmaLink>();
  std::function<void(ucs_status_t)> failed = [raw = link.get()](ucs_status_t status) {
    raw->lost = ucs_status_string(status);
  };
  if (rdma_transports() != real_rdma) failed = nullptr;  // those on one host have no failure detection
  link->endpoint = std::make_unique<ucx::Endpoint>(_reader_worker, owner.worker_address, peer, std::move(failed));
  for (const auto& region : owner.regions) {
    link->regions.push_back({region.address, std::nullopt});
    if (!region.key.empty()) link->regions.back().key.emplace(*link->endpoint, region.key);
  }
  for (const RemoteMemory& memory : {owner.words, owner.nonce_memory}) {
    link->control_page.push_back({memory.address, ucx::RemoteKey(*link->endpoint, memory.key)});
  }
  _links.push_back(link);
  return link;
}

void RdmaDomain::forget(const std::shared_ptr<RdmaLink>& link, const std::string& why) {
  link->close(why);
  std::erase(_links, link);
}

void RdmaDomain::start(std::shared_ptr<LeasedRead> read) {
  _reads.push_back(std::move(read));
  look_again();
}

std::optional<std::uint32_t> RdmaDomain::take_scratch() {
  if (_free_scratch.empty()) return std::nullopt;
  const std::uint32_t slot = _free_scratch.back();
  _free_scratch.pop_back();
  return slot;
}

bool RdmaDomain::poll() {
  bool busy = false;
  for (int turn = 0; turn < 64 && _owner_worker; ++turn) {
    const bool owner_busy = _owner_worker->progress();
    const bool reader_busy = _reader_worker->progress();
    if (!owner_busy && !reader_busy) break;
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
  _reads.remove_if([&](const std::shared_ptr<LeasedRead>& read) {
    const auto again = read->step(now);
    if (again) next = std::min(next, *again);
    return !again;
  });
  return next;
}

}  // namespace kvdirect
