// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/run_list.h"

#include <algorithm>
#include <span>
#include <utility>

namespace kvdirect {

// Merges the ascending segments that start at `starts` and end at `end`, splitting near the middle by runs: a short
// tail (the runs of a partial block) then costs one pass.
void RunList::merge(std::span<const std::size_t> starts, std::size_t end) {
  if (starts.size() < 2) return;
  const std::size_t middle = starts.front() + (end - starts.front()) / 2;
  const auto found = std::ranges::lower_bound(starts.subspan(1), middle);
  const auto split = std::min(static_cast<std::size_t>(found - starts.begin()), starts.size() - 1);
  merge(starts.first(split), starts[split]);
  merge(starts.subspan(split), end);
  const auto at = [this](std::size_t index) { return _runs.begin() + static_cast<std::ptrdiff_t>(index); };
  std::inplace_merge(at(starts.front()), at(starts[split]), at(end), before);
}

std::vector<Run> RunList::take() {
  if (!_later.empty()) {
    _later.insert(_later.begin(), 0);
    merge(_later, _runs.size());
    std::size_t kept = 0;
    for (std::size_t i = 1; i < _runs.size(); ++i) {
      if (!extend(_runs[kept], _runs[i])) _runs[++kept] = _runs[i];
    }
    _runs.resize(kept + 1);
  }
  _later.clear();
  return std::exchange(_runs, {});
}

}  // namespace kvdirect
