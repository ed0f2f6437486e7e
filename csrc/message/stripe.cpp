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
  RunCursor<Run> rest(job.runs, job.bytes);
  for (unsigned i = 0; i < count; ++i) {
    const RunCursor<Run> runs = rest.first(rest.left() / (count - i));
    const std::uint64_t behind = rest.left() - runs.left();
    std::size_t run_count = 0;
    for (; rest.left() > behind; ++run_count) rest.take(rest.left() - behind);
    result.emplace_back(whole, runs, run_count);
  }
  return result;
}

}  // namespace kvdirect
