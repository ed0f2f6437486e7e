// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/non_copyable.h"
#include "planner/piece_cursor.h"
#include "pull.h"

namespace kvdirect {

// What a pull carries, told twice: in the pieces that it lands in, and, where it permutes, in the stretches of the
// owner's memory that these make up. Either way the same bytes in the same order.
class PullPieces : NonCopyable {
 public:
  // Throws Error(plan) for more runs than an owner can be asked for.
  explicit PullPieces(const PullJob& job);

  [[nodiscard]] PieceCursor landing() const noexcept { return {_landing, _bytes}; }
  [[nodiscard]] PieceCursor asking() const noexcept { return {_asking.empty() ? _landing : _asking, _bytes}; }

 private:
  std::uint64_t _bytes;
  std::vector<RepeatedRuns> _landing;
  std::vector<std::vector<Run>> _stretches;
  std::vector<RepeatedRuns> _asking;  // empty: as they land
};

// A pull that travels in stripes, each over a stream of its own. It succeeds when every stripe has, fails with the
// first that does, and is quiet when all are. Also when stripes were dropped without an end, on the way of an error:
// it then fails with the last of them. Thread-safe.
class StripedPull : NonCopyable {
 public:
  StripedPull(std::shared_ptr<Pull> pull, unsigned stripes)
      : _pull(std::move(pull)), _pieces(_pull->job()), _unfinished(stripes), _loud(stripes) {}
  ~StripedPull();

  [[nodiscard]] Pull& pull() const noexcept { return *_pull; }
  [[nodiscard]] const PullPieces& pieces() const noexcept { return _pieces; }
  void asked() noexcept {
    if (!_asked.exchange(true)) _pull->asked();
  }
  void one_succeeded() {
    if (_unfinished.fetch_sub(1) == 1) _pull->succeed();
  }
  void one_quiet() {
    if (_loud.fetch_sub(1) == 1) _pull->set_quiet();
  }

 private:
  std::shared_ptr<Pull> _pull;
  const PullPieces _pieces;
  std::atomic<unsigned> _unfinished;
  std::atomic<unsigned> _loud;
  std::atomic<bool> _asked{false};
};

// A stretch of a pull's byte stream, and the runs that it lies in. One stream's thread ends it.
class Stripe {
 public:
  // `landing` and `asking`: the same bytes; the owner is asked for them in so many runs.
  Stripe(std::shared_ptr<StripedPull> whole, PieceCursor landing, PieceCursor asking, std::size_t run_count)
      : _whole(std::move(whole)), _landing(landing), _asking(asking), _run_count(run_count) {}

  // Cuts a pull into so many stripes of about equal size, fewer where there is too little of it.
  static std::vector<Stripe> cut(const std::shared_ptr<Pull>& pull, unsigned stripes);

  [[nodiscard]] const Pull& pull() const noexcept { return _whole->pull(); }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return _landing.left(); }
  [[nodiscard]] std::size_t run_count() const noexcept { return _run_count; }
  [[nodiscard]] PieceCursor landing() const noexcept { return _landing; }
  [[nodiscard]] PieceCursor asking() const noexcept { return _asking; }

  void asked() const noexcept { _whole->asked(); }
  void succeed() const { _whole->one_succeeded(); }
  // Fails the whole pull, and so the stripes of other streams.
  void fail(Error error) const { _whole->pull().abort(std::move(error)); }
  // No byte of it can land any more. Once.
  void set_quiet() const { _whole->one_quiet(); }

 private:
  std::shared_ptr<StripedPull> _whole;
  PieceCursor _landing;
  PieceCursor _asking;
  std::size_t _run_count;
};

}  // namespace kvdirect
