// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/shm.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "copy.h"
#include "lanes/shm_view.h"
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

// A part of a pull: so many bytes from this place in its run list on.
struct Chunk {
  std::size_t run = 0;
  std::uint64_t inside = 0;
  std::uint64_t bytes = 0;
};

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
class ShmPull : public std::enable_shared_from_this<ShmPull> {
 public:
  ShmPull(std::shared_ptr<Pull> pull, std::shared_ptr<const ShmView> view, std::shared_ptr<const Connection> connection,
          Bulk& bulk, unsigned parts)
      : _pull(std::move(pull)),
        _view(std::move(view)),
        _connection(std::move(connection)),
        _bulk(bulk),
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
  [[nodiscard]] std::unique_ptr<Bulk::Task> part();

 private:
  std::optional<Clock::time_point> advance() {
    const PullJob& job = _pull->job();
    if (_pull->done()) return std::nullopt;
    const auto now = Clock::now();
    if (now >= job.deadline) {
      throw _pull->error(Errc::timeout, _final ? "did not finish by its deadline"
                                               : "found the positions it wants not final by its deadline");
    }
    if (!_view->owner_alive()) throw _pull->error(Errc::peer_lost, "failed: the owner went away");
    if (!_final) {
      // The watermark before the data, the epoch after it: what was not final when it was read is never accepted.
      if (lease_watermark() < job.watermark) return std::min(now + _backoff.next(), job.deadline);
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
      if (!_bulk.submit(part(), Clock::now())) _inside.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  std::optional<Clock::time_point> copy_on(Clock::time_point now) {
    const PullJob& job = _pull->job();
    for (std::uint64_t copied = 0; copied < step_bytes;) {
      if (pull_allowance(_copied.load(std::memory_order_relaxed), job.bytes, step_bytes) == 0) {
        static_cast<void>(lease_watermark());
        return now + Backoff::longest;
      }
      const std::size_t index = _next.fetch_add(1, std::memory_order_relaxed);
      if (index >= _chunks.size()) return std::nullopt;
      copy(_chunks[index]);
      copied += _chunks[index].bytes;
      _copied.fetch_add(_chunks[index].bytes, std::memory_order_relaxed);
    }
    return now;
  }

  void copy(Chunk chunk) const noexcept {
    const PullJob& job = _pull->job();
    while (chunk.bytes > 0) {
      const Run& run = job.runs[chunk.run];
      const std::uint64_t length = std::min(run.length - chunk.inside, chunk.bytes);
      copy_block(job.local->regions[run.local_region].address + run.local_offset + chunk.inside,
                 _view->region(run.remote_region) + run.remote_offset + chunk.inside, length);
      chunk.bytes -= length;
      ++chunk.run;
      chunk.inside = 0;
    }
  }

  void leave() noexcept {
    copies_done();
    // Whoever leaves last sees what all of them wrote, and that nobody writes any more.
    if (_inside.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    try {
      if (!_pull->done()) {
        static_cast<void>(lease_watermark());
        _pull->succeed();
      }
    } catch (const Error& error) {
      _pull->fail(error);
    }
    _pull->set_quiet();
  }

  // Throws unless the lease holds now.
  std::uint64_t lease_watermark() const {
    const LeaseRef lease = _pull->job().lease;
    if (lease.slot >= _view->words().size()) {
      throw _pull->error(Errc::lease_expired, "names a lease slot the owner does not have");
    }
    const LeaseWord& word = _view->words()[lease.slot];
    const std::uint64_t watermark = word.watermark.load(std::memory_order_acquire);
    const std::uint64_t epoch = word.epoch.load(std::memory_order_acquire);
    if (_view->head().incarnation.load(std::memory_order_acquire) != _connection->incarnation) {
      throw _pull->error(Errc::peer_lost, "failed: the owner closed its engine");
    }
    if (epoch != lease.epoch) {
      throw _pull->error(Errc::lease_expired, "failed: the owner no longer promises these blocks", {},
                         "compute them locally, or ask the owner again");
    }
    return watermark;
  }

  std::shared_ptr<Pull> _pull;
  std::shared_ptr<const ShmView> _view;
  std::shared_ptr<const Connection> _connection;
  Bulk& _bulk;
  unsigned _parts;
  const std::vector<Chunk> _chunks;
  bool _final = false;
  Backoff _backoff;
  std::atomic<std::size_t> _next{0};
  std::atomic<std::uint64_t> _copied{0};
  std::atomic<unsigned> _inside{1};
};

struct Part final : Bulk::Task {
  explicit Part(std::shared_ptr<ShmPull> whole) : pull(std::move(whole)) {}
  std::optional<Clock::time_point> step() noexcept override { return pull->step(); }
  std::shared_ptr<ShmPull> pull;
};

std::unique_ptr<Bulk::Task> ShmPull::part() { return std::make_unique<Part>(shared_from_this()); }

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
  auto view = std::make_shared<const ShmView>(*access, _target.region_bytes, deadline);
  const Board::Head& head = view->head();
  if (!same_secret(head.nonce, access->nonce) || head.incarnation.load() != _target.connection->incarnation) {
    throw refuse("that was somebody else's memory");
  }
  _view = std::move(view);
}

void ShmLane::submit(std::shared_ptr<Pull> pull) {
  const bool small = pull->job().bytes <= inline_bytes;
  const auto task = std::make_shared<ShmPull>(pull, _view, _target.connection, *_bulk, small ? 1 : _parts);
  auto when = Clock::now();
  while (small) {
    const auto next = task->step();
    if (!next) return;
    when = *next;
    if (when > Clock::now()) break;  // not final yet: wait elsewhere
  }
  pull->on_abort([bulk = std::weak_ptr<Bulk>(_bulk)] {
    if (const auto alive = bulk.lock()) alive->nudge();
  });
  if (_bulk->submit(task->part(), when)) return;
  pull->fail(pull->error(Errc::closed, "could not start: the engine is closed"));
  pull->set_quiet();
}

}  // namespace kvdirect
