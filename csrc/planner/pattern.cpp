// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/pattern.h"

#include <algorithm>

#include "planner/map_checks.h"

namespace kvdirect {

namespace {

constexpr std::size_t max_nests = std::size_t{1} << 20;

}  // namespace

Pattern::Pattern(const Component& local, const ShardSource& share) : _item(local.item_bytes) {
  const Component& remote = *share.remote;
  if (find_axis(local, "block") != nullptr) {
    const Axis* here = find_axis(local, "token");
    if (here != nullptr) _token = {1, find_axis(remote, "token")->stride, here->stride};
  }
  _nests.push_back({remote.offset, local.offset, {}});
  for (const auto& pair : share.axes) {
    Budget budget(max_nests);
    budget.spend(_nests.size() * pair.shared.size());
    std::vector<Nest> next;
    next.reserve(_nests.size() * pair.shared.size());
    for (const auto& nest : _nests) {
      for (const auto& shared : pair.shared) {
        Nest& grown = next.emplace_back(nest);
        grown.remote += shared.there * pair.remote->stride;
        grown.local += shared.here * pair.local->stride;
        if (shared.global.length == 1) continue;
        grown.loops.push_back(
            {shared.global.length, shared.there_step * pair.remote->stride, shared.here_step * pair.local->stride});
      }
    }
    _nests = std::move(next);
  }
}

void Pattern::expand(std::uint64_t first_cell, std::uint64_t cells, std::vector<RelativeRun>& relative_runs,
                     Budget& budget) const {
  std::vector<Loop> loops;
  for (const auto& nest : _nests) {
    loops = nest.loops;
    if (cells > 1) loops.push_back({cells, _token.remote, _token.local});
    // Largest remote step first, so that atoms come out close to ascending.
    std::ranges::sort(loops, [](const Loop& a, const Loop& b) { return a.remote > b.remote; });
    std::uint64_t length = _item;
    while (!loops.empty() && loops.back().remote == length && loops.back().local == length) {
      length *= loops.back().count;
      loops.pop_back();
    }
    std::uint64_t total = 1;
    for (const auto& loop : loops) {
      budget.spend(total - 1 + loop.count);  // refuses long before the product could overflow
      total *= loop.count;
    }
    budget.spend(total);
    const std::size_t first = relative_runs.size();
    relative_runs.push_back({nest.remote + first_cell * _token.remote, nest.local + first_cell * _token.local, length});
    for (const auto& loop : loops) {
      // Spread what is there so far over the loop's steps, keeping the order outer to inner.
      const std::size_t outer = relative_runs.size() - first;
      relative_runs.resize(first + outer * loop.count);
      for (std::size_t i = outer; i-- > 0;) {
        const RelativeRun base = relative_runs[first + i];
        for (std::uint64_t k = loop.count; k-- > 0;) {
          relative_runs[first + i * loop.count + k] = {base.remote + k * loop.remote, base.local + k * loop.local,
                                                       length};
        }
      }
    }
  }
}

void coalesce(std::vector<RelativeRun>& relative_runs) {
  const auto ascending = [](const RelativeRun& a, const RelativeRun& b) { return a.remote < b.remote; };
  if (!std::ranges::is_sorted(relative_runs, ascending)) std::ranges::sort(relative_runs, ascending);
  std::size_t kept = 0;
  for (std::size_t i = 1; i < relative_runs.size(); ++i) {
    RelativeRun& back = relative_runs[kept];
    if (back.remote + back.length == relative_runs[i].remote && back.local + back.length == relative_runs[i].local) {
      back.length += relative_runs[i].length;
    } else {
      relative_runs[++kept] = relative_runs[i];
    }
  }
  if (!relative_runs.empty()) relative_runs.resize(kept + 1);
}

}  // namespace kvdirect
