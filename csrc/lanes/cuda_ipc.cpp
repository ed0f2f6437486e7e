// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/cuda_ipc.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <optional>

#include "cuda/box_list.h"
#include "lanes/end_forecast.h"
#include "lanes/handoff_client.h"
#include "lanes/leased_read.h"
#include "lanes/pull_tiles.h"

namespace kvdirect {

namespace {

constexpr LaneRead::Pace pace_of_launches{
    .longest_wait = std::chrono::milliseconds(1),
    .wait_per_read = std::chrono::microseconds(40),
    // Far less than a pull takes, and far more than a look at an event.
    .poll_interval = EndForecast::grain,
    // Then nobody can say any more when it is quiet.
    .drain_time = std::chrono::seconds(30),
    .step_bytes = std::numeric_limits<std::uint64_t>::max(),
    // One launch, so that a pull nobody wants any more stops soon.
    .move_bytes = std::uint64_t{512} << 20,
};
constexpr auto watch_time = std::chrono::milliseconds(200);

bool cuda_to_cuda(MemoryKind remote, MemoryKind local) noexcept {
  return remote == MemoryKind::cuda && local == MemoryKind::cuda;
}

std::vector<std::uint64_t> addresses_of(const Published& published) {
  std::vector<std::uint64_t> addresses;
  for (const Region& region : published.regions) addresses.push_back(reinterpret_cast<std::uint64_t>(region.address));
  return addresses;
}

// An owner's memory as it is mapped here. The owner frees it once the connection over which it was handed over has
// ended, so that ends last.
struct MappedOwner {
  std::unique_ptr<const HandoffClient> handoff;
  std::shared_ptr<const GpuView> view;
};
using MappedOwnerPtr = std::shared_ptr<const MappedOwner>;

}  // namespace

class CudaOwner {
 public:
  explicit CudaOwner(MappedOwnerPtr mapped) : _mapped(std::move(mapped)) {}

  // Null once it was let go.
  [[nodiscard]] MappedOwnerPtr mapped() const {
    const std::lock_guard lock(_mutex);
    return _mapped;
  }
  // Takes the mappings away as soon as no pull uses them: the memory may be its owner's last.
  void let_go() {
    MappedOwnerPtr last;
    const std::lock_guard lock(_mutex);
    last.swap(_mapped);
  }

 private:
  mutable std::mutex _mutex;
  MappedOwnerPtr _mapped;
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

// Copies with launches on the engine's own stream.
class CudaRead final : public LaneRead {
 public:
  CudaRead(std::shared_ptr<Pull> pull, MappedOwnerPtr owner, std::shared_ptr<BoxCache> boxes,
           std::shared_ptr<CopySpeed> speed, std::shared_ptr<Gpu> gpu)
      : _pull(std::move(pull)),
        _owner(std::move(owner)),
        _gpu(std::move(gpu)),
        _tiles(*_pull, std::move(boxes)),
        _end(std::move(speed)) {}

  const Pace& pace() const noexcept override { return _pace; }
  void check_owner() override { _owner->handoff->check_owner(*_pull); }
  std::optional<LeaseCopy> words() override { return _owner->handoff->lease_words(*_pull); }
  bool more() const override { return !_tiles.empty(); }

  std::uint64_t move(std::uint64_t most) override {
    TileList* const tiles = _tiles.current();
    if (tiles == nullptr) return 0;
    const std::uint64_t before = tiles->given();
    auto event = _gpu->copy(*tiles, most);
    if (!event) return 0;
    _under_way.push_back(std::move(event));
    _end.given(tiles->given() - before);
    return tiles->given() - before;
  }

  bool settled() override {
    auto now = Clock::now();
    for (bool again = true; again; again = !_under_way.empty() && _end.spins(now, *_pull)) {
      while (!_under_way.empty() && _under_way.front()->passed()) _under_way.pop_front();
      now = Clock::now();
    }
    if (_under_way.empty()) {
      _end.over(now);
    } else {
      _pace.poll_interval = _end.not_yet(now);
    }
    return _under_way.empty();
  }

  // What the GPU read must not be read after the epoch.
  void fence() override { std::atomic_thread_fence(std::memory_order_acquire); }

  // Never quiet: whoever waits for the destination keeps it. What the GPU still works with stays for ever: taken away,
  // it would be an illegal address, which fails all that this process does on the GPU.
  bool give_up() noexcept override {
    using Kept = std::pair<MappedOwnerPtr, std::shared_ptr<Gpu>>;
    static_cast<void>(new (std::nothrow) Kept(_owner, _gpu));
    return false;
  }

 private:
  std::shared_ptr<Pull> _pull;
  MappedOwnerPtr _owner;
  std::shared_ptr<Gpu> _gpu;
  PullTiles _tiles;
  EndForecast _end;
  Pace _pace = pace_of_launches;
  std::deque<std::shared_ptr<const DeviceEvent>> _under_way;
};

}  // namespace

LaneCapabilities CudaIpcLane::capabilities() const noexcept {
  return {.one_sided = true, .runs = false, .groups = true, .carries = &cuda_to_cuda};
}

void CudaIpcLane::prove(Clock::time_point deadline) {
  const auto refuse = [](const std::string& why) { return Error(Errc::lane, why); };
  if (!_gpu) throw refuse("this engine has no memory on a GPU");
  const auto& access = _options.connection->welcome.cuda;
  if (!access) throw refuse("the owner's memory is not on a GPU, cannot be exported, or it does not allow it");
  const auto handed_over =
      std::ranges::count(access->allocations, CudaAccess::Handle::descriptor, &CudaAccess::Allocation::kind);
  auto handoff = std::make_unique<HandoffClient>(access->handoff, static_cast<std::size_t>(handed_over),
                                                 _options.connection, deadline);
  _way = _gpu->link_to(access->device);
  std::shared_ptr<const GpuView> view;
  try {
    view = _gpu->import(*access, handoff->take_others(), _options.region_bytes);
  } catch (const Error& error) {
    throw refuse(std::string(error.what()) + " (the way to it: " + _way + ")");
  }
  // The descriptor says of components that they are on a GPU, the welcome of regions, and neither is to be trusted.
  for (const std::uint32_t region : _options.wanted) {
    if (view->region(region) == 0) throw refuse("the owner's region " + std::to_string(region) + " is not on its GPU");
  }
  RegionAddresses addresses{{}, addresses_of(*_options.local)};
  for (std::uint32_t i = 0; i < access->regions.size(); ++i) addresses.remote.push_back(view->region(i));
  _boxes = std::make_shared<BoxCache>(std::move(addresses));
  _speed = std::make_shared<CopySpeed>();
  _owner = std::make_shared<CudaOwner>(std::make_shared<const MappedOwner>(std::move(handoff), std::move(view)));
  static_cast<void>(_pool->submit(std::make_shared<Watch>(_owner, _options.connection), Clock::now() + watch_time));
}

void CudaIpcLane::submit(std::shared_ptr<Pull> pull) {
  const auto owner = _owner->mapped();
  if (!owner) {
    pull->fail(pull->error(Errc::peer_lost, "could not start: the owner went away"));
    pull->set_quiet();
    return;
  }
  auto lane = std::make_unique<CudaRead>(pull, owner, _boxes, _speed, _gpu);
  const auto read = std::make_shared<LeasedRead>(pull, std::move(lane), owner->handoff->slots());
  // The launch from here: handing it to another thread first would cost more.
  const auto next = read->step(Clock::now());
  try {
    // No room for further launches, or nothing to copy yet. Only now can the caller's tables be read.
    pull->plan_rest();
  } catch (const Error&) {
    // In refused().
  } catch (const std::exception& error) {
    if (next) read->finish(pull->error(Errc::transport, "failed", error.what()));
    throw;
  }
  if (pull->refused()) {
    if (next) read->finish(*pull->refused());
    throw Error(*pull->refused());
  }
  if (next) read->step_on(_pool, *next);
}

}  // namespace kvdirect
