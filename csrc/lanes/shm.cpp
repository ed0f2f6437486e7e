// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/shm.h"

#include <algorithm>
#include <utility>

#include "lanes/handoff_client.h"
#include "lanes/shm_view.h"
#include "memory/block_copy.h"

namespace kvdirect {

namespace {

// A smaller pull is still in the caches when the model takes its next step, right after it: its first step was a third
// slower when it was not.
constexpr std::uint64_t late_from = std::uint64_t{32} << 20;

// The owner's memory as it is mapped here.
class MappedOwner final : public CopySource {
 public:
  MappedOwner(std::unique_ptr<const HandoffClient> handoff, std::unique_ptr<const ShmView> view)
      : _handoff(std::move(handoff)), _view(std::move(view)) {}

  void check_owner(const Pull& pull) const override { _handoff->check_owner(pull); }
  std::uint64_t lease_watermark(const Pull& pull) const override { return _handoff->lease_watermark(pull); }

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
  std::unique_ptr<const HandoffClient> _handoff;
  std::unique_ptr<const ShmView> _view;
};

}  // namespace

LaneCapabilities ShmLane::capabilities() const noexcept {
  return {.one_sided = true, .same_host = true, .carries = &host_to_host};
}

void ShmLane::prove(Clock::time_point deadline) {
  const auto& access = _options.connection->welcome.shm;
  if (!access) {
    throw Error(Errc::lane, "shm does not work: the owner's memory is not shared, or it does not allow it",
                {.operation = "prove lane", .peer = _options.connection->peer});
  }
  auto handoff =
      std::make_unique<HandoffClient>("shm", access->handoff, access->memories.size(), _options.connection, deadline);
  auto view = std::make_unique<const ShmView>(*access, handoff->take_others(), _options.region_bytes);
  _owner = std::make_shared<const MappedOwner>(std::move(handoff), std::move(view));
}

void ShmLane::submit(std::shared_ptr<Pull> pull) { copy_pull(pull, _owner, _pool, _parts); }

}  // namespace kvdirect
