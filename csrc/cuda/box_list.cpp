// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/box_list.h"

#include <algorithm>
#include <bit>

namespace kvdirect {

namespace {

// Longer runs keep a warp busy alone.
constexpr std::uint64_t tiny = 2048;

}  // namespace

unsigned widest_access(std::uint64_t numbers) noexcept { return 1U << std::countr_zero(numbers | 16U); }

CopyBox BoxList::row(const Run& run, std::uint64_t inside, std::uint64_t length) const {
  CopyBox box{};
  box.source = _addresses.remote.at(run.remote_region) + run.remote_offset + inside;
  box.target = _addresses.local.at(run.local_region) + run.local_offset + inside;
  box.row_bytes = static_cast<unsigned>(length);
  box.rows = 1;
  box.planes = 1;
  return box;
}

CopyBox BoxList::next() {
  const Run& run = _runs[_next];
  const std::uint64_t length = std::min<std::uint64_t>(run.length - _inside, copy_box_bytes);
  CopyBox box = row(run, _inside, length);
  if (run.length <= tiny) {
    take_rows(box);
    if (box.rows > 1) take_planes(box);
    _next += std::size_t{box.rows} * box.planes;
  } else {
    _inside += length;
    if (_inside == run.length) {
      ++_next;
      _inside = 0;
    }
  }
  box.width = widest_access(box.source | box.target | box.row_bytes | box.source_row | box.target_row |
                            box.source_plane | box.target_plane);
  return box;
}

bool BoxList::is_plane(const CopyBox& box, std::size_t first, std::uint64_t source, std::uint64_t target) const {
  if (_runs.size() - first < box.rows) return false;
  for (unsigned i = 0; i < box.rows; ++i) {
    const Run& run = _runs[first + i];
    if (run.length != box.row_bytes) return false;
    const CopyBox there = row(run, 0, run.length);
    if (there.source != box.source + source + i * box.source_row) return false;
    if (there.target != box.target + target + i * box.target_row) return false;
  }
  return true;
}

void BoxList::take_rows(CopyBox& box) const {
  if (_next + 1 == _runs.size() || _runs[_next + 1].length != box.row_bytes) return;
  const CopyBox second = row(_runs[_next + 1], 0, box.row_bytes);
  // Steps may be negative: they wrap around here, and back again on the GPU.
  const std::uint64_t source_row = second.source - box.source;
  const std::uint64_t target_row = second.target - box.target;
  const auto most = static_cast<unsigned>(copy_box_bytes / box.row_bytes);
  unsigned rows = 1;
  while (rows < most && _next + rows < _runs.size() &&
         is_plane(box, _next + rows, rows * source_row, rows * target_row)) {
    ++rows;
  }
  box.rows = rows;
  box.source_row = source_row;
  box.target_row = target_row;
}

void BoxList::take_planes(CopyBox& box) const {
  const std::size_t second = _next + box.rows;
  if (second >= _runs.size()) return;
  const CopyBox there = row(_runs[second], 0, 1);
  const std::uint64_t source_plane = there.source - box.source;
  const std::uint64_t target_plane = there.target - box.target;
  const auto most = static_cast<unsigned>(copy_box_bytes / (std::uint64_t{box.row_bytes} * box.rows));
  unsigned planes = 1;
  while (planes < most &&
         is_plane(box, _next + std::size_t{box.rows} * planes, planes * source_plane, planes * target_plane)) {
    ++planes;
  }
  if (planes == 1) return;
  box.planes = planes;
  box.source_plane = source_plane;
  box.target_plane = target_plane;
}

BoxCache::Boxes BoxCache::of(const SharedRuns& pattern) {
  const std::lock_guard lock(_mutex);
  const auto found = std::ranges::find_if(_entries, [&](const Entry& known) {
    return !known.pattern.owner_before(pattern.get()) && !pattern.get().owner_before(known.pattern);
  });
  if (found != _entries.end()) return found->boxes;
  std::erase_if(_entries, [](const Entry& known) { return known.pattern.expired(); });
  auto boxes = std::make_shared<const std::vector<CopyBox>>(boxes_of({pattern.data(), pattern.size()}, _addresses));
  return _entries.emplace_back(Entry{pattern.get(), std::move(boxes)}).boxes;
}

std::vector<CopyBox> boxes_of(std::span<const Run> runs, const RegionAddresses& addresses) {
  std::vector<CopyBox> boxes;
  for (BoxList list(runs, addresses); !list.empty();) boxes.push_back(list.next());
  return boxes;
}

}  // namespace kvdirect
