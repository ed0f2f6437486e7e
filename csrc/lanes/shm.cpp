// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/shm.h"

#include <algorithm>
#include <utility>

#include "copy.h"
#include "lanes/lease_check.h"
#include "lanes/shm_view.h"

namespace kvdirect {

namespace {

// A smaller pull is still in the caches when the model takes its next step, right after it: its first step was a third
// slower when it was not.
constexpr std::uint64_t late_from = std::uint64_t{32} << 20;

// The owner's memory as it is mapped here.
class MappedOwner final : public CopySource {
 public:
  MappedOwner(std::unique_ptr<const ShmView> view, std::shared_ptr<const Connection> connection)
      : _view(std::move(view)), _connection(std::move(connection)) {}

  void check_owner(const Pull& pull) const override {
    if (!_view->owner_alive()) throw pull.error(Errc::peer_lost, "failed: the owner went away");
  }

  std::uint64_t lease_watermark(const Pull& pull) const override {
    check_slot(pull, _view->words().size());
    const LeaseWord& word = _view->words()[pull.job().lease.slot];
    const std::uint64_t watermark = word.watermark.load(std::memory_order_acquire);
    const std::uint64_t epoch = word.epoch.load(std::memory_order_acquire);
    if (_view->head().incarnation.load(std::memory_order_acquire) != _connection->incarnation) {
      throw pull.error(Errc::peer_lost, "failed: the owner closed its engine");
    }
    return check_lease(pull, {epoch, watermark});
  }

  void copy(const Pull& pull, Chunk chunk) const override {
    const PullJob& job = pull.job();
    const Use use = job.bytes >= late_from ? Use::late : Use::soon;
    while (chunk.bytes > 0) {
      const Run& run = job.runs[chunk.run];
      const std::uint64_t length = std::min(run.length - chunk.inside, chunk.bytes);
      copy_block(job.local->regions[run.local_region].address + run.local_offset + chunk.inside,
                 _view->region(run.remote_region) + run.remote_offset + chunk.inside, length, use);
      chunk.bytes -= length;
      ++chunk.run;
      chunk.inside = 0;
    }
  }

 private:
  std::unique_ptr<const ShmView> _view;
  std::shared_ptr<const Connection> _connection;
};

}  // namespace

LaneCapabilities ShmLane::capabilities() const noexcept {
  return {.one_sided = true, .same_host = true, .carries = &host_to_host};
}

void ShmLane::prove(Clock::time_point deadline) {
  const std::string& peer = _target.connection->peer;
  const auto& access = _target.connection->welcome.shm;
  const auto refuse = [&peer](const std::string& why) {
    return Error(Errc::lane, "shm does not work: " + why, {.operation = "prove lane", .peer = peer});
  };
  if (!access) throw refuse("the owner's memory is not shared, or it does not allow it");
  auto view = std::make_unique<const ShmView>(*access, _target.region_bytes, deadline);
  const Board::Head& head = view->head();
  if (!same_secret(head.nonce, access->nonce) || head.incarnation.load() != _target.connection->incarnation) {
    throw refuse("that was somebody else's memory");
  }
  _owner = std::make_shared<const MappedOwner>(std::move(view), _target.connection);
}

void ShmLane::submit(std::shared_ptr<Pull> pull) { copy_pull(pull, _owner, _bulk, _parts); }

}  // namespace kvdirect
