// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/pooled_read.h"

#include <optional>
#include <utility>

namespace kvdirect {

namespace {

struct ReadTask final : CopyPool::Task {
  explicit ReadTask(std::shared_ptr<LeasedRead> its_read) : read(std::move(its_read)) {}
  std::optional<Clock::time_point> step() noexcept override { return read->step(Clock::now()); }
  std::shared_ptr<LeasedRead> read;
};

}  // namespace

Helpers helpers_of(const std::shared_ptr<CopyPool>& pool, std::size_t threads) {
  return {threads, [pool](std::shared_ptr<LeasedRead> read) {
            return pool->submit(std::make_shared<ReadTask>(std::move(read)), Clock::now());
          }};
}

void step_on(const std::shared_ptr<CopyPool>& pool, const std::shared_ptr<LeasedRead>& read, Clock::time_point when) {
  const auto task = std::make_shared<ReadTask>(read);
  // Weak: the hook lives in the pull.
  read->pull()->on_abort([weak_pool = std::weak_ptr<CopyPool>(pool), weak_task = std::weak_ptr<ReadTask>(task)] {
    const auto alive = weak_pool.lock();
    const auto waiting = weak_task.lock();
    if (alive && waiting) alive->nudge(*waiting);
  });
  if (pool->submit(task, when)) return;
  read->finish(read->pull()->error(Errc::closed, "could not start: the engine is closed"));
}

}  // namespace kvdirect
