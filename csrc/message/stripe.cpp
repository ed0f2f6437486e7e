// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "message/stripe.h"

#include <algorithm>

namespace kvdirect {

namespace {

// The same bytes in the same order, as far as they lie together on the owner's side.
std::vector<Run> stretches_of(std::span<const Run> pattern) {
  std::vector<Run> stretches;
  for (const Run& run : pattern) {
    if (!stretches.empty()) {
      Run& back = stretches.back();
      if (back.remote_region == run.remote_region && back.remote_offset + back.length == run.remote_offset) {
        back.length += run.length;
        continue;
      }
    }
    stretches.push_back(run);
  }
  return stretches;
}

}  // namespace

PullPieces::PullPieces(const PullJob& job) : _bytes(job.bytes), _landing(repeated(job.runs, job.groups)) {
  if (!job.permutes) return;
  std::uint64_t asked = 0;
  for (const RepeatedRuns& pieces : _landing) {
    _stretches.push_back(stretches_of(pieces.pattern));
    _asking.emplace_back(_stretches.back(), pieces.bases);
    asked += _stretches.back().size() * pieces.bases.size();
  }
  job.check_runs(asked);
}

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
  PieceCursor landing = whole->pieces().landing();
  PieceCursor asking = whole->pieces().asking();
  for (unsigned i = 0; i < count; ++i) {
    const PieceCursor here = landing.first(landing.left() / (count - i));
    const PieceCursor asked = asking.first(here.left());
    std::size_t run_count = 0;
    for (PieceCursor runs = asked; !runs.done(); ++run_count) runs.take();
    result.emplace_back(whole, here, asked, run_count);
    landing.skip(here.left());
    asking.skip(here.left());
  }
  return result;
}

}  // namespace kvdirect
