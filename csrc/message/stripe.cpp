// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "message/stripe.h"

#include <algorithm>

namespace kvdirect {

StripedPull::~StripedPull() {
  if (_loud == 0 || _unfinished == 0) return;
  _pull->fail(_pull->error(Errc::transport, "was dropped after an error, which the engine printed"));
  _pull->set_quiet();
}

std::vector<Stripe> Stripe::cut(const std::shared_ptr<Pull>& pull, unsigned stripes) {
  const PullJob& job = pull->job();
  const auto count = static_cast<unsigned>(std::clamp<std::uint64_t>(job.bytes, 1, stripes));
  const auto whole = std::make_shared<StripedPull>(pull, count);
  std::vector<Stripe> result;
  result.reserve(count);
  RunCursor<Run> runs(job.runs);
  std::uint64_t left = job.bytes;
  for (unsigned i = 0; i < count; ++i) {
    const std::uint64_t bytes = left / (count - i);
    left -= bytes;
    const RunCursor<Run> begin = runs;
    std::size_t run_count = 0;
    for (std::uint64_t rest = bytes; rest > 0; ++run_count) rest -= runs.take(rest).length;
    result.emplace_back(whole, begin, run_count, bytes);
  }
  return result;
}

}  // namespace kvdirect
