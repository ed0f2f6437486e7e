// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "base/non_copyable.h"
#include "cuda/copy_box.h"
#include "planner/plan.h"

namespace kvdirect {

// Device addresses of the regions that runs name.
struct RegionAddresses {
  std::vector<std::uint64_t> remote;
  std::vector<std::uint64_t> local;
};

// Runs as boxes for a GPU, one after the other. Tiny runs at equal distances, which is what layouts that disagree
// leave, become the rows and planes of one box.
class BoxList {
 public:
  BoxList(std::span<const Run> runs, const RegionAddresses& addresses) : _runs(runs), _addresses(addresses) {}

  [[nodiscard]] bool empty() const noexcept { return _next == _runs.size(); }
  // The next box, of at most copy_box_bytes. Only if there is one.
  [[nodiscard]] CopyBox next();

 private:
  [[nodiscard]] CopyBox row(const Run& run, std::uint64_t inside, std::uint64_t length) const;
  // Whether runs [first, first + rows) are the box's rows, moved by so much.
  [[nodiscard]] bool is_plane(const CopyBox& box, std::size_t first, std::uint64_t source, std::uint64_t target) const;
  void take_rows(CopyBox& box) const;
  void take_planes(CopyBox& box) const;

  std::span<const Run> _runs;
  const RegionAddresses& _addresses;
  std::size_t _next = 0;
  std::uint64_t _inside = 0;  // bytes of the next run that are done
};

// Boxes of patterns between the same regions, worked out once for as long as a pattern lives. Thread-safe.
class BoxCache : NonCopyable {
 public:
  using Boxes = std::shared_ptr<const std::vector<CopyBox>>;

  explicit BoxCache(RegionAddresses addresses) : _addresses(std::move(addresses)) {}

  [[nodiscard]] Boxes of(const SharedRuns& pattern);

 private:
  struct Entry {
    std::weak_ptr<const std::vector<Run>> pattern;
    Boxes boxes;
  };
  const RegionAddresses _addresses;
  std::mutex _mutex;
  std::vector<Entry> _entries;
};

[[nodiscard]] std::vector<CopyBox> boxes_of(std::span<const Run> runs, const RegionAddresses& addresses);

// Bytes of the widest access, 16 at most, that every one of these numbers, or'ed, allows.
[[nodiscard]] unsigned widest_access(std::uint64_t numbers) noexcept;

[[nodiscard]] constexpr std::uint64_t bytes_of(const CopyBox& box) noexcept {
  return std::uint64_t{box.row_bytes} * box.rows * box.planes;
}

}  // namespace kvdirect
