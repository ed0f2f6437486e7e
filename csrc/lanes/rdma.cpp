// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/rdma.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <utility>

#include "lanes/lease_check.h"
#include "test_hooks.h"

namespace kvdirect {

namespace {

// What one pull has posted and not got back: enough to keep a device busy, little enough to stop soon.
constexpr std::size_t max_in_flight = 128;
constexpr std::uint64_t max_piece = std::uint64_t{1} << 20;
constexpr auto poll_interval = std::chrono::milliseconds(20);
// The same at whether the destination's GPU is done with it.
constexpr auto gpu_poll_interval = std::chrono::microseconds(100);
// A pull that nobody wants any more waits so long for what is in flight; then its endpoint is closed.
constexpr auto drain_time = std::chrono::seconds(2);

// One pull: is the lease good and far enough, read, is the lease still good.
class RdmaPull final : public RdmaDomain::Task, public std::enable_shared_from_this<RdmaPull> {
 public:
  RdmaPull(std::shared_ptr<Pull> pull, std::shared_ptr<const ReaderConnection> connection,
           std::shared_ptr<RdmaLink> link, RdmaDomain& domain)
      : _pull(std::move(pull)), _connection(std::move(connection)), _link(std::move(link)), _domain(domain) {}
  RdmaPull(const RdmaPull&) = delete;
  RdmaPull& operator=(const RdmaPull&) = delete;
  ~RdmaPull() override {
    if (_scratch) _domain.give_scratch(*_scratch);
  }

  std::optional<Clock::time_point> step(Clock::time_point now) override {
    try {
      // The session may end without UCX noticing.
      while (!_pull->done()) {
        const auto next = advance(now);
        if (!next || _in_flight > 0 || *next > now) return next ? std::min(*next, now + poll_interval) : next;
      }
    } catch (const Error& error) {
      _pull->fail(error);
    } catch (const std::exception& error) {
      _pull->fail(_pull->error(Errc::transport, "failed", error.what()));
    }
    return drain(now);
  }

 private:
  enum class Stage : std::uint8_t { before, data, after };

  std::optional<Clock::time_point> advance(Clock::time_point now) {
    const PullJob& job = _pull->job();
    if (!_connection->alive) _link->close("its session ended");
    if (!_link->lost.empty()) throw _pull->error(Errc::peer_lost, "failed: the owner went away", _link->lost);
    if (_status != UCS_OK) {
      throw _pull->error(Errc::peer_lost, "failed: the owner's memory can no longer be read",
                         ucs_status_string(_status));
    }
    if (now >= job.deadline) {
      throw _pull->error(Errc::timeout, _stage == Stage::before
                                            ? "found the positions it wants not final by its deadline"
                                            : "did not finish by its deadline");
    }
    if (_in_flight > 0 && _stage != Stage::data) return job.deadline;
    switch (_stage) {
      case Stage::before: return look_before(now);
      case Stage::data: return read_on(now);
      case Stage::after: break;
    }
    static_cast<void>(lease_watermark());
    _pull->succeed();
    return drain(now);
  }

  std::optional<Clock::time_point> look_before(Clock::time_point now) {
    const PullJob& job = _pull->job();
    if (job.after && !job.after->passed()) return std::min(now + gpu_poll_interval, job.deadline);
    if (!_scratch) {
      check_slot(*_pull, _connection->welcome.rdma->word_count);
      _scratch = _domain.take_scratch();
      if (!_scratch) return now + Backoff::longest;
      read_lease();
      return now;
    }
    // The watermark before the data, the epoch after it: what was not final when it was read is never accepted.
    if (lease_watermark() < _pull->job().watermark) {
      if (!_look_again) _look_again = now + _backoff.next();
      if (now < *_look_again) return std::min(*_look_again, _pull->job().deadline);
      _look_again.reset();
      read_lease();
      return now;
    }
    _stage = Stage::data;
    _pull->asked();
    return read_on(now);
  }

  std::optional<Clock::time_point> read_on(Clock::time_point now) {
    const PullJob& job = _pull->job();
    while (_in_flight < max_in_flight && _next < job.runs.size() && _status == UCS_OK) {
      const std::uint64_t allowed = pull_allowance(_posted, job.bytes, max_piece);
      if (allowed == 0) return now + Backoff::longest;
      post_piece(job.runs[_next], allowed);
    }
    if (_in_flight > 0 || _next < job.runs.size()) return job.deadline;
    if (_into_gpu) land();
    _stage = Stage::after;
    read_lease();
    return now;
  }

  // A get's completion is seen in host memory, its bytes went to the GPU, and the two ways are not ordered against each
  // other. CUDA's GPUDirect RDMA guide, "Synchronization and Memory Ordering": work that is submitted from the CPU sees
  // what network cards wrote, if the writes were complete before the submitting thread went on; work that runs already
  // may see anything. cuFlushGPUDirectRDMAWrites waits for the first, and does nothing where the GPU orders them itself
  // (CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING). The second is the caller's: nothing may read the destination
  // before the pull is valid.
  void land() {
    if (_status == UCS_OK) _domain.flush_gpu();
  }

  void post_piece(const Run& run, std::uint64_t allowed) {
    const RdmaLink::Memory& remote = _link->regions.at(run.remote_region);
    const std::uint64_t length = std::min({run.length - _inside, allowed, max_piece});
    const Region& region = _pull->job().local->regions[run.local_region];
    _into_gpu = _into_gpu || region.memory == MemoryKind::cuda;
    std::byte* local = region.address + run.local_offset + _inside;
    const std::uint64_t address = remote.address + run.remote_offset + _inside;
    _posted += length;
    _inside += length;
    if (_inside == run.length) {
      ++_next;
      _inside = 0;
    }
    ++_in_flight;
    _link->endpoint->get(local, _domain.memory(run.local_region), length, address, remote.key.value(),
                         [self = shared_from_this()](ucs_status_t status) { self->got(status); });
  }

  // Twice: see vouched().
  void read_lease() {
    const RdmaLink::Memory& words = _link->control_page.at(RdmaLink::words);
    const std::uint64_t address = words.address + sizeof(LeaseWord) * std::uint64_t{_pull->job().lease.slot};
    for (const std::size_t time : {0, 1}) {
      ++_in_flight;
      _link->endpoint->get(_domain.scratch(*_scratch) + 2 * time, _domain.scratch_memory(), sizeof(LeaseWord), address,
                           words.key.value(), [self = shared_from_this()](ucs_status_t status) { self->got(status); });
    }
  }

  void got(ucs_status_t status) {
    --_in_flight;
    if (status != UCS_OK && _status == UCS_OK) _status = status;
  }

  // Throws unless the lease held when its words were read.
  std::uint64_t lease_watermark() {
    const std::uint64_t* words = _domain.scratch(*_scratch);
    return check_lease(*_pull, vouched({words[0], words[1]}, {words[2], words[3]}));
  }

  // Over: quiet once nothing can land any more.
  std::optional<Clock::time_point> drain(Clock::time_point now) {
    if (_in_flight == 0) {
      _pull->set_quiet();
      return std::nullopt;
    }
    if (!_drained_by) _drained_by = now + drain_time;
    if (now >= *_drained_by) _link->close("the owner does not answer");
    return now < *_drained_by ? *_drained_by : now + drain_time;
  }

  std::shared_ptr<Pull> _pull;
  std::shared_ptr<const ReaderConnection> _connection;
  std::shared_ptr<RdmaLink> _link;
  RdmaDomain& _domain;
  Stage _stage = Stage::before;
  std::optional<std::uint32_t> _scratch;
  std::size_t _next = 0;
  std::size_t _in_flight = 0;
  std::uint64_t _inside = 0;
  std::uint64_t _posted = 0;
  bool _into_gpu = false;
  ucs_status_t _status = UCS_OK;
  Backoff _backoff;
  std::optional<Clock::time_point> _look_again;
  std::optional<Clock::time_point> _drained_by;
};

}  // namespace

RdmaLane::~RdmaLane() {
  if (!_link) return;
  _domain->post([domain = _domain.get(), link = _link] { domain->forget(link, "the peer was closed here"); });
}

namespace {

bool anything(MemoryKind /*remote*/, MemoryKind /*local*/) noexcept { return true; }
bool into_host(MemoryKind /*remote*/, MemoryKind local) noexcept { return local == MemoryKind::host; }

}  // namespace

LaneCapabilities RdmaLane::capabilities() const noexcept {
  const bool lands_on_gpu = _domain && _domain->why_no_cuda().empty();
  return {.one_sided = true, .same_host = false, .carries = lands_on_gpu ? &anything : &into_host};
}

std::string RdmaLane::limits() const { return _domain ? _domain->why_no_cuda() : _why_not; }

void RdmaLane::prove(Clock::time_point deadline) {
  const auto refuse = [this](const std::string& why, const std::string& status = {}) {
    return Error(Errc::lane, "rdma does not work: " + why,
                 {.operation = "prove lane", .peer = _options.connection->peer, .status = status});
  };
  if (!_domain) throw Error(Errc::lane, _why_not, {.operation = "prove lane", .peer = _options.connection->peer});
  if (!_options.connection->welcome.rdma) throw refuse("the owner has no RDMA, or does not allow it");
  if (_options.connection->welcome.rdma->regions.size() != _options.regions)
    throw refuse("the owner's welcome and descriptor disagree");
  for (const std::uint32_t region : _options.wanted) {
    if (!_options.connection->welcome.rdma->regions.at(region).key.empty()) continue;
    throw refuse("the owner's network card does not reach its region " + std::to_string(region) +
                 ", which is CUDA memory; Engine.lane_problems says why there");
  }
  // Shared with the rdma thread, which may answer when nobody waits any more.
  struct Look {
    std::shared_ptr<RdmaLink> link;
    Token nonce{};
    std::promise<ucs_status_t> read;
  };
  const auto proof = std::make_shared<Look>();
  auto done = proof->read.get_future();
  auto* domain = _domain.get();
  const bool posted = domain->post([domain, proof, options = _options] {
    try {
      proof->link = domain->open(*options.connection->welcome.rdma, options.connection->peer);
      const auto slot = domain->take_scratch();
      if (!slot) throw Error(Errc::lane, "too many pulls are under way");
      const RdmaLink::Memory& nonce = proof->link->control_page.at(RdmaLink::nonce);
      proof->link->endpoint->get(domain->scratch(*slot), domain->scratch_memory(), sizeof(Token), nonce.address,
                                 nonce.key.value(), [domain, proof, slot = *slot](ucs_status_t status) {
                                   std::memcpy(proof->nonce.data(), domain->scratch(slot), sizeof(Token));
                                   domain->give_scratch(slot);
                                   proof->read.set_value(status);
                                 });
    } catch (...) {
      proof->read.set_exception(std::current_exception());
    }
  });
  if (!posted) throw refuse("the engine was closed");
  const auto let_go = [domain, proof] {
    domain->post([domain, proof] {
      if (proof->link) domain->forget(proof->link, "it did not prove itself");
    });
  };
  if (done.wait_until(deadline) != std::future_status::ready) {
    let_go();
    throw refuse("the owner's memory could not be read in time");
  }
  try {
    const ucs_status_t status = done.get();
    if (status != UCS_OK) throw refuse("the owner's memory could not be read", ucs_status_string(status));
    if (!same_secret(proof->nonce, _options.connection->welcome.rdma->nonce))
      throw refuse("that was somebody else's memory");
  } catch (const Error& error) {
    let_go();
    throw error.code() == Errc::lane ? error : refuse(error.what());
  }
  _link = proof->link;
}

void RdmaLane::submit(std::shared_ptr<Pull> pull) {
  auto* domain = _domain.get();
  pull->on_abort([weak = std::weak_ptr<RdmaDomain>(_domain)] {
    if (const auto alive = weak.lock()) alive->post([raw = alive.get()] { raw->look_again(); });
  });
  const bool posted = domain->post([domain, pull, link = _link, connection = _options.connection] {
    domain->start(std::make_shared<RdmaPull>(pull, connection, link, *domain));
  });
  if (posted) return;
  pull->fail(pull->error(Errc::closed, "could not start: the engine was closed"));
  pull->set_quiet();
}

}  // namespace kvdirect
