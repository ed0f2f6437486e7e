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
#include "planner/run_cursor.h"
#include "pull.h"

namespace kvdirect {

// A pull that travels in stripes, each over a stream of its own. It succeeds when every stripe has, fails with the
// first that does, and is quiet when all are. Also when stripes were dropped without an end, on the way of an error:
// it then fails with the last of them. Thread-safe.
class StripedPull : NonCopyable {
 public:
  StripedPull(std::shared_ptr<Pull> pull, unsigned stripes)
      : _pull(std::move(pull)), _unfinished(stripes), _loud(stripes) {}
  ~StripedPull();

  [[nodiscard]] Pull& pull() const noexcept { return *_pull; }
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
  std::atomic<unsigned> _unfinished;
  std::atomic<unsigned> _loud;
  std::atomic<bool> _asked{false};
};

// A stretch of a pull's byte stream, and the runs that it lies in. One stream's thread ends it.
class Stripe {
 public:
  // `runs`: those of its bytes, which lie in so many of the pull's.
  Stripe(std::shared_ptr<StripedPull> whole, RunCursor<Run> runs, std::size_t run_count)
      : _whole(std::move(whole)), _runs(runs), _run_count(run_count) {}

  // Cuts a pull into so many stripes of about equal size, fewer where there is too little of it.
  static std::vector<Stripe> cut(const std::shared_ptr<Pull>& pull, unsigned stripes);

  [[nodiscard]] const Pull& pull() const noexcept { return _whole->pull(); }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return _runs.left(); }
  [[nodiscard]] std::size_t run_count() const noexcept { return _run_count; }
  [[nodiscard]] RunCursor<Run> runs() const noexcept { return _runs; }

  void asked() const noexcept { _whole->asked(); }
  void succeed() const { _whole->one_succeeded(); }
  // Fails the whole pull, and so the stripes of other streams.
  void fail(Error error) const { _whole->pull().abort(std::move(error)); }
  // No byte of it can land any more. Once.
  void set_quiet() const { _whole->one_quiet(); }

 private:
  std::shared_ptr<StripedPull> _whole;
  RunCursor<Run> _runs;
  std::size_t _run_count;
};

}  // namespace kvdirect
