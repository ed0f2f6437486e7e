// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "planner/plan.h"

namespace kvdirect {

// Collects runs and hands them out ascending by remote region and offset, joined where both sides are contiguous.
// Cheap when runs arrive in order: an out-of-order run starts a new segment, and only segments are merged.
class RunList {
 public:
  void append(const Run& run) {
    if (!_runs.empty()) {
      if (extend(_runs.back(), run)) return;
      if (before(run, _runs.back())) _later.push_back(_runs.size());
    }
    _runs.push_back(run);
  }

  // `expected` runs at most; not taken beyond reason, since many of them may be joined. `room`: runs that nobody needs
  // any more.
  explicit RunList(std::uint64_t expected, std::vector<Run> room = {}) : _runs(std::move(room)) {
    _runs.clear();
    _runs.reserve(static_cast<std::size_t>(std::min(expected, sensible)));
  }

  [[nodiscard]] std::vector<Run> take();

 private:
  static bool before(const Run& a, const Run& b) noexcept {
    return a.remote_region != b.remote_region ? a.remote_region < b.remote_region : a.remote_offset < b.remote_offset;
  }

  // Joins `run` to `back` where it continues it on both sides.
  static bool extend(Run& back, const Run& run) noexcept {
    if (back.remote_region != run.remote_region || back.local_region != run.local_region) return false;
    if (back.remote_offset + back.length != run.remote_offset) return false;
    if (back.local_offset + back.length != run.local_offset) return false;
    back.length += run.length;
    return true;
  }

  void merge(std::span<const std::size_t> starts, std::size_t end);

  static constexpr std::uint64_t sensible = std::uint64_t{1} << 16;

  std::vector<Run> _runs;
  std::vector<std::size_t> _later;  // where each ascending segment but the first one starts
};

}  // namespace kvdirect
