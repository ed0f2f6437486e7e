// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/shm.h"

#include <array>
#include <string>
#include <utility>

#include "base/fetch_ahead.h"
#include "lanes/handoff_client.h"
#include "memory/block_copy.h"
#include "memory/shared_memory.h"

namespace kvdirect {

namespace {

// Of a pull, so many are on their way from memory at a time: small ones from places at random else wait for each.
constexpr std::size_t fetched_runs = 4;

// The owner's memory as it is mapped here.
class MappedOwner final : public HostMemory {
 public:
  // `region_bytes`: as the owner's descriptor says. Throws Error(lane).
  MappedOwner(std::unique_ptr<HandoffClient> handoff, const ShmAccess& access,
              const std::vector<std::uint64_t>& region_bytes)
      : _handoff(std::move(handoff)) {
    const auto refuse = [](const std::string& why) { return Error(Errc::lane, why); };
    if (access.regions.size() != region_bytes.size()) throw refuse("the owner's welcome and descriptor disagree");
    auto descriptors = _handoff->take_others();
    for (std::size_t i = 0; i < access.memories.size(); ++i) {
      _memories.push_back(std::make_unique<MappedMemory>(std::move(descriptors.at(i)), access.memories[i]));
    }
    for (std::size_t i = 0; i < region_bytes.size(); ++i) {
      const ShmAccess::Place& place = access.regions[i];
      const auto bytes = _memories.at(place.memory)->bytes();
      if (place.offset > bytes.size() || region_bytes[i] > bytes.size() - place.offset) {
        throw refuse("the owner's region " + std::to_string(i) + " ends outside its memory");
      }
      _regions.push_back(bytes.data() + place.offset);
    }
  }

  std::size_t slots() const noexcept override { return _handoff->slots(); }
  void check_owner(const Pull& pull) const override { _handoff->check_owner(pull); }
  LeaseCopy words(const Pull& pull) const override { return _handoff->lease_words(pull); }

  void copy(const Pull& pull, PieceCursor chunk) const override {
    const PullJob& job = pull.job();
    const Use use = use_of(job.landing());
    std::array<Run, fetched_runs> ahead;
    std::size_t taken = 0;
    for (std::size_t copied = 0;; ++copied) {
      for (; taken < copied + ahead.size() && !chunk.done(); ++taken) {
        Run& run = ahead[taken % ahead.size()] = chunk.take();
        fetch_ahead(source(run), run.length);
      }
      if (copied == taken) return;
      const Run& run = ahead[copied % ahead.size()];
      copy_block(job.local->regions[run.local_region].address + run.local_offset, source(run), run.length, use);
    }
  }

 private:
  [[nodiscard]] const std::byte* source(const Run& run) const {
    return _regions[run.remote_region] + run.remote_offset;
  }

  std::unique_ptr<HandoffClient> _handoff;
  std::vector<std::unique_ptr<MappedMemory>> _memories;
  std::vector<const std::byte*> _regions;
};

}  // namespace

std::shared_ptr<const HostMemory> map_owner(const std::shared_ptr<const ReaderConnection>& owner,
                                            const std::vector<std::uint64_t>& region_bytes,
                                            Clock::time_point deadline) {
  const auto& access = owner->welcome.shm;
  if (!access) throw Error(Errc::lane, "the owner's memory is not shared, or it does not allow it");
  auto handoff = std::make_unique<HandoffClient>(access->handoff, access->memories.size(), owner, deadline);
  return std::make_shared<const MappedOwner>(std::move(handoff), *access, region_bytes);
}

}  // namespace kvdirect
