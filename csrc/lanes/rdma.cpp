// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/rdma.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <limits>
#include <utility>

#include "base/non_copyable.h"
#include "lanes/leased_read.h"
#include "planner/run_cursor.h"

namespace kvdirect {

namespace {

// What one pull has posted and not got back: enough to keep a device busy, little enough to stop soon.
constexpr std::size_t max_in_flight = 128;
// The longest wait before a session that ended without UCX noticing is noticed; what UCX does notice comes at once. A
// pull that nobody wants any more waits so long for what is in flight; then its endpoint is closed.
constexpr LaneRead::Pace pace_of_gets{.longest_wait = std::chrono::milliseconds(8),
                                      .wait_per_read = std::chrono::microseconds(80),
                                      .poll_interval = std::chrono::milliseconds(20),
                                      .drain_time = std::chrono::seconds(2),
                                      .step_bytes = std::numeric_limits<std::uint64_t>::max(),
                                      .move_bytes = std::uint64_t{1} << 20};

// The gets of one pull that are in flight, and the registered words that lease words come into.
struct InFlight : NonCopyable {
  explicit InFlight(RdmaDomain& its_domain) : domain(its_domain) {}
  ~InFlight() {
    if (scratch) domain.give_scratch(*scratch);
  }

  RdmaDomain& domain;
  std::optional<std::uint32_t> scratch;
  std::size_t gets = 0;
  ucs_status_t status = UCS_OK;  // the first failure
};

// Reads with gets; all on the rdma thread.
class RdmaRead final : public LaneRead {
 public:
  RdmaRead(std::shared_ptr<Pull> pull, std::shared_ptr<const ReaderConnection> connection,
           std::shared_ptr<RdmaLink> link, RdmaDomain& domain)
      : _pull(std::move(pull)),
        _connection(std::move(connection)),
        _link(std::move(link)),
        _domain(domain),
        _runs(_pull->job().runs),
        _in_flight(std::make_shared<InFlight>(domain)) {}

  const Pace& pace() const noexcept override { return pace_of_gets; }

  void check_owner() override {
    // The session may end without UCX noticing.
    if (!_connection->alive) _link->close("its session ended");
    if (!_link->lost.empty()) throw _pull->error(Errc::peer_lost, "failed: the owner went away", _link->lost);
    if (_in_flight->status == UCS_OK) return;
    throw _pull->error(Errc::peer_lost, "failed: the owner's memory can no longer be read",
                       ucs_status_string(_in_flight->status));
  }

  std::optional<LeaseCopy> words() override {
    check_owner();
    if (!_words_asked && !ask_words()) return std::nullopt;
    if (_in_flight->gets > 0) return std::nullopt;
    check_owner();
    _words_asked = false;
    const std::uint64_t* words = _domain.scratch(*_in_flight->scratch);
    return vouched({words[0], words[1]}, {words[2], words[3]});
  }

  bool more() const override { return !_runs.done(); }

  std::uint64_t move(std::uint64_t most) override {
    check_owner();
    if (_in_flight->gets >= max_in_flight) return 0;
    _words_asked = false;  // words that were read before these bytes say nothing of them
    const Run run = _runs.take(most);
    const RdmaLink::Memory& remote = _link->regions.at(run.remote_region);
    const Region& region = _pull->job().local->regions[run.local_region];
    _into_gpu = _into_gpu || region.memory == MemoryKind::cuda;
    get(region.address + run.local_offset, _domain.memory(run.local_region), run.length,
        remote.address + run.remote_offset, remote);
    return run.length;
  }

  bool settled() override { return _in_flight->gets == 0; }

  // A get's completion is seen in host memory, its bytes went to the GPU, and the two ways are not ordered against each
  // other. CUDA's GPUDirect RDMA guide, "Synchronization and Memory Ordering": work that is submitted from the CPU sees
  // what network cards wrote, if the writes were complete before the submitting thread went on; work that runs already
  // may see anything. cuFlushGPUDirectRDMAWrites waits for the first, and does nothing where the GPU orders them itself
  // (CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING). The second is the caller's: nothing may read the destination
  // before the pull is valid.
  void fence() override {
    if (_into_gpu && _in_flight->status == UCS_OK) _domain.flush_gpu();
  }

  bool give_up() noexcept override {
    _link->close("the owner does not answer");
    return true;
  }

 private:
  // False if it is not possible just now.
  bool ask_words() {
    auto& scratch = _in_flight->scratch;
    if (!scratch) scratch = _domain.take_scratch();
    if (!scratch) return false;
    const RdmaLink::Memory& memory = _link->control_page.at(RdmaLink::words);
    const std::uint64_t address = memory.address + sizeof(LeaseWord) * std::uint64_t{_pull->job().lease.slot};
    _words_asked = true;
    // Twice: see vouched().
    for (const std::size_t time : {0, 1}) {
      get(_domain.scratch(*scratch) + 2 * time, _domain.scratch_memory(), sizeof(LeaseWord), address, memory);
    }
    return true;
  }

  void get(void* into, const ucx::Memory& local, std::uint64_t bytes, std::uint64_t address,
           const RdmaLink::Memory& remote) {
    ++_in_flight->gets;
    _link->endpoint->get(into, local, bytes, address, remote.key.value(), [flight = _in_flight](ucs_status_t status) {
      --flight->gets;
      if (status != UCS_OK && flight->status == UCS_OK) flight->status = status;
    });
  }

  std::shared_ptr<Pull> _pull;
  std::shared_ptr<const ReaderConnection> _connection;
  std::shared_ptr<RdmaLink> _link;
  RdmaDomain& _domain;
  RunCursor<Run> _runs;
  std::shared_ptr<InFlight> _in_flight;
  bool _words_asked = false;
  bool _into_gpu = false;
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
  const bool lands_on_gpu = _domain->why_not_into_cuda().empty();
  return {.one_sided = true, .carries = lands_on_gpu ? &anything : &into_host};
}

void RdmaLane::prove(Clock::time_point deadline) {
  const auto refuse = [](const std::string& why, const std::string& status = {}) {
    return Error(Errc::lane, why, {.status = status});
  };
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
  } catch (const Error&) {
    let_go();
    throw;
  }
  _link = proof->link;
}

void RdmaLane::submit(std::shared_ptr<Pull> pull) {
  auto* domain = _domain.get();
  pull->on_abort([weak = std::weak_ptr<RdmaDomain>(_domain)] {
    if (const auto alive = weak.lock()) alive->post([raw = alive.get()] { raw->look_again(); });
  });
  const bool posted = domain->post([domain, pull, link = _link, connection = _options.connection] {
    auto lane = std::make_unique<RdmaRead>(pull, connection, link, *domain);
    const std::size_t slots = connection->welcome.rdma->word_count;
    domain->start(std::make_shared<LeasedRead>(pull, std::move(lane), slots));
  });
  if (posted) return;
  pull->fail(pull->error(Errc::closed, "could not start: the engine was closed"));
  pull->set_quiet();
}

}  // namespace kvdirect
