// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/lease_extents.h"

#include <algorithm>

namespace kvdirect {

namespace {

bool inside(const std::vector<Extent>& extents, const WireRun& run) {
  // The last extent that starts at or before the run.
  const auto after = std::upper_bound(extents.begin(), extents.end(), run, [](const WireRun& wanted, const Extent& e) {
    return wanted.region < e.region || (wanted.region == e.region && wanted.offset < e.offset);
  });
  if (run.length == 0 || after == extents.begin()) return false;
  const Extent& extent = *std::prev(after);
  const std::uint64_t skipped = run.offset - extent.offset;
  return extent.region == run.region && skipped <= extent.length && run.length <= extent.length - skipped;
}

bool all_inside(const std::vector<Extent>& extents, std::span<const WireRun> runs) {
  return std::ranges::all_of(runs, [&](const WireRun& run) { return inside(extents, run); });
}

}  // namespace

bool LeaseExtents::refresh(const Published& published, LeaseRef lease) {
  const auto tables = _leases->blocks(lease);
  if (!tables) return false;
  const std::vector<BlockTable> views(tables->begin(), tables->end());
  _entries[lease.slot] = {lease.epoch, block_extents(published.map, views)};
  return true;
}

bool LeaseExtents::covers(const Published& published, LeaseRef lease, std::span<const WireRun> runs) {
  const auto known = _entries.find(lease.slot);
  if (known != _entries.end() && known->second.epoch == lease.epoch && all_inside(known->second.extents, runs)) {
    return true;
  }
  // Unknown, or blocks were added since.
  return refresh(published, lease) && all_inside(_entries.at(lease.slot).extents, runs);
}

void LeaseExtents::sweep() {
  std::erase_if(_entries, [this](const auto& entry) {
    return _leases->verdict({entry.first, entry.second.epoch}, 0) == LeaseVerdict::expired;
  });
}

}  // namespace kvdirect
