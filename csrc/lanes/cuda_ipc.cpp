// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/cuda_ipc.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <new>
#include <optional>
#include <thread>

#include "cuda/tile_list.h"
#include "lanes/handoff_client.h"
#include "test_hooks.h"

namespace kvdirect {

namespace {

// Between two looks at whether the GPU is done: far less than a pull takes, and far more than a look.
constexpr auto poll_interval = std::chrono::microseconds(25);
// What one launch copies, so that a pull nobody wants any more stops soon.
constexpr std::uint64_t launch_bytes = std::uint64_t{512} << 20;
// A pull that is over waits so long for what the GPU was given; then nobody can say any more when it is quiet.
constexpr auto drain_time = std::chrono::seconds(30);
constexpr auto watch_time = std::chrono::milliseconds(200);

bool cuda_to_cuda(MemoryKind remote, MemoryKind local) noexcept {
  return remote == MemoryKind::cuda && local == MemoryKind::cuda;
}

std::vector<std::uint64_t> addresses_of(const Published& published) {
  std::vector<std::uint64_t> addresses;
  for (const Region& region : published.regions) addresses.push_back(reinterpret_cast<std::uint64_t>(region.address));
  return addresses;
}

}  // namespace

class CudaOwner {
 public:
  CudaOwner(std::unique_ptr<const HandoffClient> handoff, std::shared_ptr<const GpuView> view, std::size_t regions)
      : _handoff(std::move(handoff)), _view(std::move(view)), _regions(regions) {}

  [[nodiscard]] const HandoffClient& handoff() const noexcept { return *_handoff; }
  // Null once it was let go.
  [[nodiscard]] std::shared_ptr<const GpuView> view() const {
    const std::lock_guard lock(_mutex);
    return _view;
  }
  [[nodiscard]] std::size_t regions() const noexcept { return _regions; }
  // Takes the mappings away as soon as no pull uses them: the memory may be its owner's last.
  void let_go() {
    std::shared_ptr<const GpuView> last;
    const std::lock_guard lock(_mutex);
    last.swap(_view);
  }

 private:
  std::unique_ptr<const HandoffClient> _handoff;
  mutable std::mutex _mutex;
  std::shared_ptr<const GpuView> _view;
  std::size_t _regions;
};

namespace {

// Lets an owner's memory go when its session ends, also where nobody closes the peer.
class Watch final : public CopyPool::Task {
 public:
  Watch(std::weak_ptr<CudaOwner> owner, std::shared_ptr<const ReaderConnection> connection)
      : _owner(std::move(owner)), _connection(std::move(connection)) {}

  std::optional<Clock::time_point> step() noexcept override {
    const auto owner = _owner.lock();
    if (!owner) return std::nullopt;
    if (_connection->alive) return Clock::now() + watch_time;
    owner->let_go();
    return std::nullopt;
  }

 private:
  std::weak_ptr<CudaOwner> _owner;
  std::shared_ptr<const ReaderConnection> _connection;
};

// One pull: is the lease good and far enough and the destination free, copy, is the lease still good.
class CudaPull final : public CopyPool::Task {
 public:
  CudaPull(std::shared_ptr<Pull> pull, std::shared_ptr<const CudaOwner> owner, std::shared_ptr<const GpuView> view,
           std::shared_ptr<Gpu> gpu)
      : _pull(std::move(pull)), _owner(std::move(owner)), _view(std::move(view)), _gpu(std::move(gpu)) {}

  CudaPull(const CudaPull&) = delete;
  CudaPull& operator=(const CudaPull&) = delete;
  // Early only where the engine has just closed.
  ~CudaPull() override {
    while (const auto again = _pull->quiet() ? std::nullopt : drain(Clock::now()))
      std::this_thread::sleep_until(*again);
  }

  std::optional<Clock::time_point> step() noexcept override {
    try {
      if (!_pull->done()) {
        const auto next = advance(Clock::now());
        if (next) return next;
      }
    } catch (const Error& error) {
      _pull->fail(error);
    } catch (const std::exception& error) {
      _pull->fail(_pull->error(Errc::transport, "failed", error.what()));
    }
    return drain(Clock::now());
  }

 private:
  // When to look again; nullopt: it has ended.
  std::optional<Clock::time_point> advance(Clock::time_point now) {
    const PullJob& job = _pull->job();
    if (now >= job.deadline) throw _pull->error(Errc::timeout, late());
    // At first Peer has only just asked.
    if (std::exchange(_begun, true)) _owner->handoff().check_owner(*_pull);
    if (!_tiles) {
      if (job.after && !job.after->passed()) return std::min(now + poll_interval, job.deadline);
      // The watermark before the data, the epoch after it: what was not final when it was read is never accepted.
      if (_owner->handoff().lease_watermark(*_pull) < job.watermark) {
        _waits_for_owner = true;
        return std::min(now + _backoff.next(), job.deadline);
      }
      _pull->asked();
      _tiles.emplace(job.groups, addresses());
    }
    if (const auto wait = start_copies(now)) return wait;
    if (!landed()) return now + poll_interval;
    // What the GPU read must not be read after the epoch.
    std::atomic_thread_fence(std::memory_order_acquire);
    static_cast<void>(_owner->handoff().lease_watermark(*_pull));
    _pull->succeed();
    return std::nullopt;
  }

  [[nodiscard]] const char* late() const noexcept {
    if (_tiles) return "did not finish by its deadline";
    return _waits_for_owner ? "found the positions it wants not final by its deadline"
                            : "found its destination still in use by its deadline";
  }

  [[nodiscard]] RegionAddresses addresses() const {
    RegionAddresses found{{}, addresses_of(*_pull->job().local)};
    for (std::uint32_t i = 0; i < _owner->regions(); ++i) found.remote.push_back(_view->region(i));
    return found;
  }

  // nullopt: all of them are.
  std::optional<Clock::time_point> start_copies(Clock::time_point now) {
    while (!_tiles->empty()) {
      const std::uint64_t allowed = pull_allowance(_started, _pull->job().bytes, launch_bytes);
      if (allowed == 0) {
        static_cast<void>(_owner->handoff().lease_watermark(*_pull));
        return now + Backoff::longest;
      }
      const std::uint64_t before = _tiles->given();
      auto event = _gpu->copy(*_tiles, allowed);
      if (!event) return now + poll_interval;
      _started += _tiles->given() - before;
      _under_way.push_back(std::move(event));
    }
    return std::nullopt;
  }

  // Whether the GPU has done all it was given.
  [[nodiscard]] bool landed() {
    while (!_under_way.empty() && _under_way.front()->passed()) _under_way.pop_front();
    return _under_way.empty();
  }

  // Over: quiet once nothing can land any more.
  std::optional<Clock::time_point> drain(Clock::time_point now) noexcept {
    if (!_view) return std::nullopt;  // given up
    try {
      if (!landed()) {
        if (!_drained_by) _drained_by = now + drain_time;
        if (now < *_drained_by) return now + poll_interval;
        give_up();
        return std::nullopt;
      }
    } catch (const std::exception&) {
      // The device failed, and does nothing any more.
    }
    _view.reset();
    _pull->set_quiet();
    return std::nullopt;
  }

  // Never quiet: whoever waits for the destination keeps it. What the GPU still works with stays for ever: taken away,
  // it would be an illegal address, which fails all that this process does on the GPU.
  void give_up() noexcept {
    using Kept = std::pair<std::shared_ptr<const GpuView>, std::shared_ptr<Gpu>>;
    static_cast<void>(new (std::nothrow) Kept(std::move(_view), _gpu));
    _view.reset();
  }

  std::shared_ptr<Pull> _pull;
  std::shared_ptr<const CudaOwner> _owner;
  std::shared_ptr<const GpuView> _view;
  std::shared_ptr<Gpu> _gpu;
  std::optional<TileList> _tiles;
  std::deque<std::shared_ptr<const DeviceEvent>> _under_way;
  std::uint64_t _started = 0;
  bool _begun = false;
  bool _waits_for_owner = false;
  Backoff _backoff;
  std::optional<Clock::time_point> _drained_by;
};

}  // namespace

LaneCapabilities CudaIpcLane::capabilities() const noexcept {
  return {.one_sided = true, .same_host = true, .groups = true, .carries = &cuda_to_cuda};
}

void CudaIpcLane::prove(Clock::time_point deadline) {
  const auto refuse = [this](const std::string& why) {
    return Error(Errc::lane, "cuda_ipc does not work: " + why,
                 {.operation = "prove lane", .peer = _options.connection->peer});
  };
  if (!_gpu) throw refuse("this engine has no memory on a GPU");
  const auto& access = _options.connection->welcome.cuda;
  if (!access) throw refuse("the owner's memory is not on a GPU, cannot be exported, or it does not allow it");
  const auto handed_over =
      std::ranges::count(access->allocations, CudaAccess::Handle::descriptor, &CudaAccess::Allocation::kind);
  auto handoff = std::make_unique<HandoffClient>("cuda_ipc", access->handoff, static_cast<std::size_t>(handed_over),
                                                 _options.connection, deadline);
  auto view = _gpu->import(*access, handoff->take_others(), _options.region_bytes);
  // The descriptor says of components that they are on a GPU, the welcome of regions, and neither is to be trusted.
  for (const std::uint32_t region : _options.wanted) {
    if (view->region(region) == 0) throw refuse("the owner's region " + std::to_string(region) + " is not on its GPU");
  }
  _owner = std::make_shared<CudaOwner>(std::move(handoff), std::move(view), access->regions.size());
  static_cast<void>(_pool->submit(std::make_unique<Watch>(_owner, _options.connection), Clock::now() + watch_time));
}

void CudaIpcLane::submit(std::shared_ptr<Pull> pull) {
  auto view = _owner->view();
  if (!view) {
    pull->fail(pull->error(Errc::peer_lost, "could not start: the owner went away"));
    pull->set_quiet();
    return;
  }
  auto task = std::make_unique<CudaPull>(pull, _owner, std::move(view), _gpu);
  // The launch from here: handing it to another thread first would cost more.
  const auto next = task->step();
  if (!next) return;
  pull->on_abort([weak = std::weak_ptr<CopyPool>(_pool)] {
    if (const auto alive = weak.lock()) alive->nudge();
  });
  if (_pool->submit(std::move(task), *next)) return;
  pull->fail(pull->error(Errc::closed, "could not start: the engine is closed"));
}

}  // namespace kvdirect
