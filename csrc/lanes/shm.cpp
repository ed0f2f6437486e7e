// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/shm.h"

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
class MappedOwner final : public HostMemory {
 public:
  MappedOwner(std::unique_ptr<const HandoffClient> handoff, std::unique_ptr<const ShmView> view)
      : _handoff(std::move(handoff)), _view(std::move(view)) {}

  std::size_t slots() const noexcept override { return _handoff->slots(); }
  void check_owner(const Pull& pull) const override { _handoff->check_owner(pull); }
  LeaseCopy words(const Pull& pull) const override { return _handoff->lease_words(pull); }

  void copy(const Pull& pull, RunCursor<Run> chunk) const override {
    const PullJob& job = pull.job();
    const Use use = job.bytes >= late_from ? Use::late : Use::soon;
    while (!chunk.done()) {
      const Run run = chunk.take();
      copy_block(job.local->regions[run.local_region].address + run.local_offset,
                 _view->region(run.remote_region) + run.remote_offset, run.length, use);
    }
  }

 private:
  std::unique_ptr<const HandoffClient> _handoff;
  std::unique_ptr<const ShmView> _view;
};

}  // namespace

std::shared_ptr<const HostMemory> map_owner(const std::shared_ptr<const ReaderConnection>& owner,
                                            const std::vector<std::uint64_t>& region_bytes,
                                            Clock::time_point deadline) {
  const auto& access = owner->welcome.shm;
  if (!access) throw Error(Errc::lane, "the owner's memory is not shared, or it does not allow it");
  auto handoff = std::make_unique<HandoffClient>(access->handoff, access->memories.size(), owner, deadline);
  auto view = std::make_unique<const ShmView>(*access, handoff->take_others(), region_bytes);
  return std::make_shared<const MappedOwner>(std::move(handoff), std::move(view));
}

}  // namespace kvdirect
