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
  const std::span<const Run> runs(job.runs);
  const auto count = static_cast<unsigned>(std::clamp<std::uint64_t>(job.bytes, 1, stripes));
  const auto whole = std::make_shared<StripedPull>(pull, count);
  std::vector<Stripe> result;
  result.reserve(count);
  std::size_t first = 0;
  std::uint64_t skipped = 0;
  std::uint64_t left = job.bytes;
  for (unsigned i = 0; i < count; ++i) {
    const std::uint64_t bytes = left / (count - i);
    left -= bytes;
    std::size_t run = first;
    std::uint64_t reached = skipped + bytes;  // from the beginning of runs[run]
    while (run < runs.size() && reached >= runs[run].length) reached -= runs[run++].length;
    const bool inside = reached > 0;
    result.emplace_back(whole, runs.subspan(first, run - first + (inside ? 1 : 0)), skipped,
                        inside ? runs[run].length - reached : 0, bytes);
    first = run;
    skipped = reached;
  }
  return result;
}

}  // namespace kvdirect
