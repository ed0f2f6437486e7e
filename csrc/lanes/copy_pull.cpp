// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/copy_pull.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "memory/block_copy.h"
#include "test_hooks.h"

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

std::vector<Chunk> chunks_of(const PullJob& job) {
  const std::uint64_t size = std::clamp(job.bytes / chunks_per_pull, least_chunk, most_chunk);
  std::vector<Chunk> chunks;
  chunks.reserve(static_cast<std::size_t>(job.bytes / size + 1));
  Chunk current;
  for (std::size_t i = 0; i < job.runs.size(); ++i) {
    for (std::uint64_t inside = 0; inside < job.runs[i].length;) {
      if (current.bytes == 0) current = {i, inside, 0};
      const std::uint64_t taken = std::min(job.runs[i].length - inside, size - current.bytes);
      current.bytes += taken;
      inside += taken;
      if (current.bytes == size) chunks.push_back(std::exchange(current, {}));
    }
  }
  if (current.bytes > 0) chunks.push_back(current);
  return chunks;
}

// One pull: is the lease good and far enough, copy, is the lease still good. Several threads may step() it at once;
// the one that leaves last ends it.
class CopyPull : public std::enable_shared_from_this<CopyPull> {
 public:
  CopyPull(std::shared_ptr<Pull> pull, std::shared_ptr<const CopySource> source, CopyPool& pool, unsigned parts)
      : _pull(std::move(pull)),
        _source(std::move(source)),
        _pool(pool),
        _parts(parts),
        _chunks(chunks_of(_pull->job())) {}

  // When to call again; nullopt: this thread has left.
  std::optional<Clock::time_point> step() noexcept {
    try {
      if (const auto next = advance()) return next;
    } catch (const Error& error) {
      _pull->fail(error);
    } catch (const std::exception& error) {
      _pull->fail(_pull->error(Errc::transport, "failed", error.what()));
    }
    leave();
    return std::nullopt;
  }

  // For one more thread.
  [[nodiscard]] std::unique_ptr<CopyPool::Task> part();

 private:
  std::optional<Clock::time_point> advance() {
    const PullJob& job = _pull->job();
    if (_pull->done()) return std::nullopt;
    const auto now = Clock::now();
    if (now >= job.deadline) {
      throw _pull->error(Errc::timeout, _final ? "did not finish by its deadline"
                                               : "found the positions it wants not final by its deadline");
    }
    // At first Peer has only just asked.
    if (_begun.exchange(true, std::memory_order_relaxed)) _source->check_owner(*_pull);
    if (!_final) {
      // The watermark before the data, the epoch after it: what was not final when it was read is never accepted.
      if (_source->lease_watermark(*_pull) < job.watermark) return std::min(now + _backoff.next(), job.deadline);
      _pull->asked();
      spread();
    }
    return copy_on(now);
  }

  // From here on other threads help. Before, there was one only.
  void spread() {
    _final = true;
    const auto more = std::min<std::size_t>(_parts, _chunks.size());
    for (std::size_t i = 1; i < more; ++i) {
      _inside.fetch_add(1, std::memory_order_relaxed);
      if (!helped()) _inside.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  // Whether one more thread was asked to help; without memory for that there is none.
  bool helped() noexcept {
    try {
      return _pool.submit(part(), Clock::now());
    } catch (const std::bad_alloc&) {
      return false;
    }
  }

  std::optional<Clock::time_point> copy_on(Clock::time_point now) {
    const PullJob& job = _pull->job();
    for (std::uint64_t copied = 0; copied < step_bytes;) {
      if (pull_allowance(_copied.load(std::memory_order_relaxed), job.bytes, step_bytes) == 0) {
        static_cast<void>(_source->lease_watermark(*_pull));
        return now + Backoff::longest;
      }
      const std::size_t index = _next.fetch_add(1, std::memory_order_relaxed);
      if (index >= _chunks.size()) return std::nullopt;
      _source->copy(*_pull, _chunks[index]);
      copied += _chunks[index].bytes;
      _copied.fetch_add(_chunks[index].bytes, std::memory_order_relaxed);
    }
    return now;
  }

  void leave() noexcept {
    copies_done();
    // Whoever leaves last sees what all of them wrote, and that nobody writes any more.
    if (_inside.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    try {
      if (!_pull->done()) {
        static_cast<void>(_source->lease_watermark(*_pull));
        _pull->succeed();
      }
    } catch (const Error& error) {
      _pull->fail(error);
    }
    _pull->set_quiet();
  }

  std::shared_ptr<Pull> _pull;
  std::shared_ptr<const CopySource> _source;
  CopyPool& _pool;
  unsigned _parts;
  const std::vector<Chunk> _chunks;
  std::atomic<bool> _begun{false};
  bool _final = false;
  Backoff _backoff;
  std::atomic<std::size_t> _next{0};
  std::atomic<std::uint64_t> _copied{0};
  std::atomic<unsigned> _inside{1};
};

struct Part final : CopyPool::Task {
  explicit Part(std::shared_ptr<CopyPull> whole) : pull(std::move(whole)) {}
  std::optional<Clock::time_point> step() noexcept override { return pull->step(); }
  std::shared_ptr<CopyPull> pull;
};

std::unique_ptr<CopyPool::Task> CopyPull::part() { return std::make_unique<Part>(shared_from_this()); }

}  // namespace

void copy_pull(const std::shared_ptr<Pull>& pull, const std::shared_ptr<const CopySource>& source,
               const std::shared_ptr<CopyPool>& pool, unsigned parts) {
  const bool small = pull->job().bytes <= inline_bytes;
  const auto task = std::make_shared<CopyPull>(pull, source, *pool, small ? 1 : parts);
  auto when = Clock::time_point{};
  while (small) {
    const auto next = task->step();
    if (!next) return;
    when = *next;
    if (when > Clock::now()) break;  // not final yet: wait elsewhere
  }
  pull->on_abort([weak = std::weak_ptr<CopyPool>(pool)] {
    if (const auto alive = weak.lock()) alive->nudge();
  });
  if (pool->submit(task->part(), when)) return;
  pull->fail(pull->error(Errc::closed, "could not start: the engine is closed"));
  pull->set_quiet();
}

}  // namespace kvdirect
