// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "message/lease_extents.h"

#include <algorithm>

namespace kvdirect {

namespace {

using Extents = std::vector<Extent>;

bool inside(const Extent& extent, const WireRun& run) {
  if (extent.region != run.region || run.offset < extent.offset || run.length == 0) return false;
  const std::uint64_t skipped = run.offset - extent.offset;
  return skipped <= extent.length && run.length <= extent.length - skipped;
}

// The last extent that starts at or before the run; the end if there is none.
Extents::const_iterator last_before(const Extents& extents, const WireRun& run) {
  const auto after = std::upper_bound(extents.begin(), extents.end(), run, [](const WireRun& wanted, const Extent& e) {
    return wanted.region < e.region || (wanted.region == e.region && wanted.offset < e.offset);
  });
  return after == extents.begin() ? extents.end() : std::prev(after);
}

bool all_inside(const Extents& extents, std::span<const WireRun> runs) {
  // Readers ask in ascending order, so a run mostly lies where the last one did or in the next extent.
  auto here = extents.begin();
  return std::ranges::all_of(runs, [&](const WireRun& run) {
    if (here != extents.end() && !inside(*here, run)) ++here;
    if (here != extents.end() && inside(*here, run)) return true;
    here = last_before(extents, run);
    return here != extents.end() && inside(*here, run);
  });
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
