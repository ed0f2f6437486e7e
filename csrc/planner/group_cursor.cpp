// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <limits>
#include <utility>

#include "planner/plan.h"
#include "planner/selection.h"
#include "planner/shard_plan.h"

namespace kvdirect {

struct GroupCursor::State {
  struct Part {
    const Bundle& bundle;
    BlockScan scan;
  };
  const Plan::Impl& plan;
  std::vector<RunGroup> ready;  // planned at once
  std::vector<Part> parts;
  std::size_t part = 0;  // those before it are done

  void skip_done() {
    while (part < parts.size() && parts[part].scan.left() == 0) ++part;
  }

  void begin(const ShardPlan& shard, const Selection& selection) {
    std::vector<Pieces> selected(shard.geometries.size());
    for (const Bundle& bundle : shard.bundles) {
      const ShardGroup& first = *bundle.first;
      if (!first.key.blocks) {
        ready.push_back({bundle.pattern, {RunGroup::Base{}}});
      } else if (first.key.geometry.alike()) {
        const auto& [same, scan] = parts.emplace_back(Part{bundle, BlockScan(first.key.geometry, selection)});
        for (const PartialPiece& part_of : scan.partial()) ready.push_back(bundle.of(part_of));
      } else {
        Pieces& pieces = selected[first.geometry];
        if (pieces.size() == 0) select_pieces(first.key.geometry, selection, pieces);
        add(bundle, pieces);
      }
    }
    skip_done();
  }

  void add(const Bundle& bundle, const Pieces& pieces) {
    std::vector<RunGroup::Base> bases;
    bases.reserve(pieces.whole.size());
    for (const Piece& piece : pieces.whole) bases.push_back(bundle.first->base_of(piece));
    if (!bases.empty()) ready.push_back({bundle.pattern, std::move(bases)});
    for (const PartialPiece& part_of : pieces.partial) ready.push_back(bundle.of(part_of));
  }
};

GroupCursor::GroupCursor(const Plan& plan, std::size_t shard, const Selection& selection)
    : _state(std::make_unique<State>(State{*plan._impl, {}, {}})) {
  if (plan._impl->aliased) {
    // Whether a byte would be written twice shows only in the runs themselves.
    _state->ready.push_back({plan.runs(shard, selection), {RunGroup::Base{}}});
  } else {
    _state->begin(plan._impl->shard(shard), selection);
  }
}

GroupCursor::~GroupCursor() = default;
GroupCursor::GroupCursor(GroupCursor&&) noexcept = default;

bool GroupCursor::done() const noexcept { return _state->ready.empty() && _state->part == _state->parts.size(); }

std::vector<RunGroup> GroupCursor::next(std::size_t blocks) {
  auto groups = std::exchange(_state->ready, {});
  while (blocks > 0 && _state->part < _state->parts.size()) {
    auto& [bundle, scan] = _state->parts[_state->part];
    const RunGroup::Base step{bundle.first->key.remote.block, bundle.first->key.local.block};
    RunGroup group{bundle.pattern, _state->plan.take(&Plan::Impl::Kept::bases)};
    const std::size_t entries = std::min(blocks, scan.left());
    scan.take(entries, step, group.bases);
    if (!group.bases.empty()) groups.push_back(std::move(group));
    blocks -= entries;
    _state->skip_done();
  }
  return groups;
}

std::vector<RunGroup> Plan::groups(std::size_t shard, const Selection& selection) const {
  return GroupCursor(*this, shard, selection).next(std::numeric_limits<std::size_t>::max());
}

}  // namespace kvdirect
