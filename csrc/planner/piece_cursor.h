// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "planner/plan.h"
#include "planner/run_cursor.h"

namespace kvdirect {

// Each run of `pattern` at every one of `bases`: a group, or runs as they are at the one base 0.
struct RepeatedRuns {
  std::span<const Run> pattern;
  std::span<const RunGroup::Base> bases;
  std::uint64_t base_bytes = 0;  // of the pattern

  RepeatedRuns(std::span<const Run> runs, std::span<const RunGroup::Base> at) noexcept : pattern(runs), bases(at) {
    for (const Run& run : pattern) base_bytes += run.length;
  }
};

// Runs as they are, and groups. Views of them.
[[nodiscard]] inline std::vector<RepeatedRuns> repeated(std::span<const Run> runs, std::span<const RunGroup> groups) {
  static constexpr std::array<RunGroup::Base, 1> as_they_are{};
  std::vector<RepeatedRuns> pieces;
  pieces.reserve(groups.size() + 1);
  pieces.emplace_back(runs, as_they_are);
  for (const RunGroup& group : groups) pieces.emplace_back(group.pattern, group.bases);
  return pieces;
}

// Walks groups of runs, base by base, without writing the runs down.
class PieceCursor {
 public:
  PieceCursor() = default;
  // `bytes`: of all of them.
  PieceCursor(std::span<const RepeatedRuns> groups, std::uint64_t bytes) noexcept : _groups(groups), _left(bytes) {
    settle();
  }

  [[nodiscard]] bool done() const noexcept { return _left == 0; }
  [[nodiscard]] std::uint64_t left() const noexcept { return _left; }
  // From here, but no further than so many bytes.
  [[nodiscard]] PieceCursor first(std::uint64_t bytes) const noexcept {
    PieceCursor shorter = *this;
    shorter._left = std::min(_left, bytes);
    return shorter;
  }

  // What is left of the run at which this stands. Only if not done.
  [[nodiscard]] Run next() const noexcept {
    const RepeatedRuns& group = _groups.front();
    Run run = part_of(group.pattern[_run], _inside, group.pattern[_run].length - _inside);
    run.remote_offset += group.bases[_base].remote;
    run.local_offset += group.bases[_base].local;
    return run;
  }

  // The next piece; of bases with one run, neighbours are joined. Only if not done.
  Run take() noexcept {
    Run piece = next();
    const RepeatedRuns& group = _groups.front();
    while (piece.length < _left && group.pattern.size() == 1 && is_continued(piece)) {
      piece.length += group.base_bytes;
      ++_base;
    }
    const std::uint64_t over = piece.length - std::min(piece.length, _left);
    piece.length -= over;
    _left -= piece.length;
    pass(group.pattern[_run].length - _inside - over);
    return piece;
  }

  // There must be so many.
  void skip(std::uint64_t bytes) noexcept {
    _left -= bytes;
    while (bytes > 0) {
      const RepeatedRuns& group = _groups.front();
      std::uint64_t passed = 0;
      if (_run == 0 && _inside == 0 && bytes >= group.base_bytes) {
        const auto whole = std::min<std::uint64_t>(bytes / group.base_bytes, group.bases.size() - _base);
        _base += static_cast<std::size_t>(whole);
        passed = whole * group.base_bytes;
        settle();
      } else {
        passed = std::min(bytes, group.pattern[_run].length - _inside);
        pass(passed);
      }
      bytes -= passed;
    }
  }

 private:
  [[nodiscard]] bool is_continued(const Run& piece) const noexcept {
    const RepeatedRuns& group = _groups.front();
    if (_base + 1 == group.bases.size()) return false;
    const Run& run = group.pattern.front();
    const RunGroup::Base& base = group.bases[_base + 1];
    return piece.remote_offset + piece.length == base.remote + run.remote_offset &&
           piece.local_offset + piece.length == base.local + run.local_offset;
  }

  // No more than are left of the run.
  void pass(std::uint64_t bytes) noexcept {
    const RepeatedRuns& group = _groups.front();
    _inside += bytes;
    if (_inside < group.pattern[_run].length) return;
    _inside = 0;
    if (++_run < group.pattern.size()) return;
    _run = 0;
    ++_base;
    settle();
  }

  // On to a group that has something left.
  void settle() noexcept {
    while (!_groups.empty() && (_base == _groups.front().bases.size() || _groups.front().pattern.empty())) {
      _groups = _groups.subspan(1);
      _base = 0;
    }
  }

  std::span<const RepeatedRuns> _groups;
  std::size_t _base = 0;
  std::size_t _run = 0;
  std::uint64_t _inside = 0;  // bytes of the run that are behind
  std::uint64_t _left = 0;
};

}  // namespace kvdirect
