// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "base/counters.h"
#include "base/digest.h"
#include "lane.h"
#include "lanes/copy_pool.h"
#include "message/stripe.h"
#include "pull.h"

namespace kvdirect {

// A pull that is valid only if its bytes, once they landed, have the digest that its owner makes of them under the
// same lease. What was pulled over whatever lane is asked about over the session. Thread-safe.
//
//   moving    the bytes are on their way
//   hashing   they have landed: the owner is asked for its digest, and a thread of the pool makes ours
//   compared  ours is made, the owner's may be missing
//   over      failed, cancelled or proven: the destination is not looked at any more
class ProvenPull final : public PullMakeup, public CopyPool::Task, public std::enable_shared_from_this<ProvenPull> {
 public:
  // `data`: moves the bytes. `proof`: same lease and bytes, of which it moves none: it brings PullJob::digest.
  ProvenPull(std::shared_ptr<Pull> data, std::shared_ptr<Pull> proof, std::shared_ptr<Lane> session,
             std::shared_ptr<CopyPool> pool, std::shared_ptr<Counters> counters);

  // Makes `whole` what ends when all of it is done; it keeps this. Before `data` is started.
  void join(const std::shared_ptr<Pull>& whole);
  [[nodiscard]] PullResult result(double seconds) const override;
  [[nodiscard]] std::uint64_t bytes() const override { return _data->job().bytes; }
  [[nodiscard]] std::uint64_t runs() const override { return _data->job().run_count; }

  bool help() override { return _data->help(); }

  std::optional<CopyPool::Clock::time_point> step() noexcept override;

 private:
  enum class Stage : std::uint8_t { moving, hashing, compared, over };

  // By whichever thread changed something.
  void look();
  void ask(Pull& whole);
  void fail(Pull& whole, const Error& why) const;
  void compare(Pull& whole);
  void abort(const Error& why) const;
  [[nodiscard]] Stage advance(Stage from, Stage to);

  std::weak_ptr<Pull> _whole;
  const std::shared_ptr<Pull> _data;
  const std::shared_ptr<Pull> _proof;
  const std::shared_ptr<Lane> _session;
  const std::shared_ptr<CopyPool> _pool;
  const std::shared_ptr<Counters> _counters;
  const PullPieces _pieces;
  PieceCursor _unhashed;  // as all of ours, of the one thread that hashes
  Hasher _hasher;
  std::mutex _mutex;
  Stage _stage = Stage::moving;
};

}  // namespace kvdirect
