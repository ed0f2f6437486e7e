// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/host_copy.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lanes/leased_read.h"
#include "memory/block_copy.h"

namespace kvdirect {

namespace {

// A hand-over to another thread costs more than copying this much.
constexpr std::uint64_t inline_bytes = 256 * 1024;
// What a thread takes at a time: enough for taking to cost nothing, little enough for all threads to end together.
constexpr std::uint64_t least_chunk = 16 * 1024;
constexpr std::uint64_t most_chunk = 512 * 1024;
constexpr std::uint64_t chunks_per_pull = 64;
// Between two looks at whether the pull is still wanted; other pulls get their turn meanwhile.
constexpr std::uint64_t step_bytes = 2 * 1024 * 1024;

std::vector<PieceCursor> chunks_of(std::span<const RepeatedRuns> pieces, const PullJob& job) {
  const std::uint64_t size = std::clamp(job.bytes / chunks_per_pull, least_chunk, most_chunk);
  std::vector<PieceCursor> chunks;
  chunks.reserve(static_cast<std::size_t>(job.bytes / size + 1));
  for (PieceCursor rest(pieces, job.bytes); !rest.done(); rest.skip(chunks.back().left())) {
    chunks.push_back(rest.first(size));
  }
  return chunks;
}

class HostRead final : public LaneRead {
 public:
  // `pull`: is there for as long as the LeasedRead that asks this.
  HostRead(const Pull& pull, std::shared_ptr<const HostMemory> memory, Clock::duration longest_wait,
           Clock::duration wait_per_read)
      : _pull(pull),
        _memory(std::move(memory)),
        _pace{.longest_wait = longest_wait,
              .wait_per_read = wait_per_read,
              .poll_interval = {},
              .drain_time = {},
              .step_bytes = step_bytes,
              .move_bytes = most_chunk},
        _pieces(repeated(_pull.job().runs, _pull.job().groups)),
        _chunks(chunks_of(_pieces, _pull.job())) {}

  const Pace& pace() const noexcept override { return _pace; }
  std::size_t parts() const noexcept override { return _chunks.size(); }
  void check_owner() override { _memory->check_owner(_pull); }
  std::optional<LeaseCopy> words() override { return _memory->words(_pull); }
  bool more() const override { return _next.load(std::memory_order_relaxed) < _chunks.size(); }
  std::uint64_t move(std::uint64_t /*most*/) override {
    const std::size_t index = _next.fetch_add(1, std::memory_order_relaxed);
    if (index >= _chunks.size()) return 0;
    _memory->copy(_pull, _chunks[index]);
    return _chunks[index].left();
  }
  bool settled() override { return true; }
  void fence() override { copies_done(); }
  bool give_up() noexcept override { return false; }

 private:
  const Pull& _pull;
  std::shared_ptr<const HostMemory> _memory;
  const Pace _pace;
  const std::vector<RepeatedRuns> _pieces;
  const std::vector<PieceCursor> _chunks;
  std::atomic<std::size_t> _next{0};
};

}  // namespace

void HostCopyLane::submit(std::shared_ptr<Pull> pull) {
  pull->plan_rest();
  const bool small = pull->job().bytes <= inline_bytes;
  Helpers helpers;
  if (!small) {
    helpers = {_options.parts, [pool = _options.pool](std::shared_ptr<LeasedRead> read) {
                 return pool->submit(std::move(read), Clock::now());
               }};
  }
  auto lane = std::make_unique<HostRead>(*pull, _memory, _options.longest_wait, _options.wait_per_read);
  const auto read = std::make_shared<LeasedRead>(pull, std::move(lane), _memory->slots(), std::move(helpers));
  // Weak: the pull has it.
  if (!small) {
    pull->help_by([weak_pool = std::weak_ptr<CopyPool>(_options.pool), weak_read = std::weak_ptr<LeasedRead>(read)] {
      const auto pool = weak_pool.lock();
      const auto waiting = weak_read.lock();
      return pool && waiting && pool->help(*waiting);
    });
  }
  // A small one waits elsewhere only while it is not final.
  const auto when = small ? read->run() : Clock::time_point{};
  if (when) read->step_on(_options.pool, *when);
}

}  // namespace kvdirect
