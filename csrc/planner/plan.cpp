// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/plan.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "planner/coverage.h"
#include "planner/map_checks.h"
#include "planner/run_list.h"
#include "planner/selection.h"
#include "planner/shard_plan.h"

namespace kvdirect {

namespace {

constexpr std::uint64_t match_budget = std::uint64_t{1} << 26;
constexpr std::uint64_t max_runs = std::uint64_t{1} << 23;
constexpr std::size_t many_blocks = 1024;  // from here on memory of earlier plans is worth a lock

void check_written_once(const std::vector<Run>& runs) {
  std::vector<Extent> written;
  written.reserve(runs.size());
  for (const Run& run : runs) written.push_back({run.local_region, run.local_offset, run.length});
  std::ranges::sort(written, {}, [](const Extent& extent) { return std::pair(extent.region, extent.offset); });
  for (std::size_t i = 1; i < written.size(); ++i) {
    const Extent& a = written[i - 1];
    const Extent& b = written[i];
    if (a.region != b.region || a.offset + a.length <= b.offset) continue;
    throw Error(
        Errc::plan,
        "byte " + std::to_string(b.offset) + " of local region " + std::to_string(b.region) + " would be written twice",
        {.operation = "plan runs", .hint = "Two local block tables name the same block of one pool."});
  }
}

std::string describe(const ShardGroup& group, bool permutes) {
  std::uint64_t shortest = ~std::uint64_t{0}, longest = 0;
  for (const RelativeRun& relative : group.relative_runs) {
    shortest = std::min(shortest, relative.length);
    longest = std::max(longest, relative.length);
  }
  std::string text =
      std::to_string(group.relative_runs.size()) + (group.relative_runs.size() == 1 ? " run of " : " runs of ");
  text += std::to_string(shortest);
  if (longest != shortest) text += " to " + std::to_string(longest);
  text += " bytes ";
  if (group.key.blocks) {
    text +=
        "per " + std::to_string(group.key.geometry.piece_cells() * group.key.geometry.tokens_per_cell) + " positions";
  } else {
    text += "once";
  }
  const PieceSize size(group);
  if (!size.small_runs()) return text;
  text += " (small runs: the layouts agree only in pieces";
  if (permutes && size.permutes()) {
    text += "; lanes cma and message read stretches of " + std::to_string(size.bytes / size.stretches) +
            " bytes and put them in order here";
  }
  return text + ")";
}

}  // namespace

std::uint64_t RunGroup::bytes() const noexcept {
  std::uint64_t total = 0;
  for (const Run& run : pattern) total += run.length;
  return total * bases.size();
}

Plan::Plan(const TensorMap& local, std::span<const TensorMap> remotes, std::uint64_t reader_index)
    : _impl(std::make_unique<Impl>()) {
  check_structure(local, "the local map");
  _impl->aliased = tables_alias(local, "the local map");
  std::vector<ComponentIndex> indices;
  for (std::size_t shard = 0; shard < remotes.size(); ++shard) {
    check_structure(remotes[shard], "the map of shard " + std::to_string(shard));
    indices.push_back(index_components(remotes[shard]));
  }
  _impl->shards.resize(remotes.size());
  _impl->components = local.components.size();
  Budget budget(match_budget);
  for (const auto& component : local.components) {
    for (const auto& share : exact_cover(component, indices, reader_index, budget)) {
      _impl->shards[share.shard].group(component, *share.remote).patterns.emplace_back(component, share);
    }
  }
  for (ShardPlan& shard : _impl->shards) shard.complete();
}

Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;

std::size_t Plan::shards() const noexcept { return _impl->shards.size(); }

bool Plan::reads(std::size_t shard) const { return !_impl->shard(shard).groups.empty(); }

bool Plan::permutes(std::size_t shard) const { return _impl->shard(shard).permutes; }

std::vector<Run> Plan::runs(std::size_t shard, const Selection& selection) const {
  const auto& [geometries, groups, bundles, permutes] = _impl->shard(shard);
  const bool many =
      std::ranges::any_of(selection.local, [](const BlockTable& table) { return table.size() >= many_blocks; });
  std::vector<Pieces> selected(geometries.size());
  if (many && !selected.empty()) {
    selected.front() = {_impl->take(&Impl::Kept::pieces), _impl->take(&Impl::Kept::sorting), {}};
  }
  for (std::size_t i = 0; i < geometries.size(); ++i) select_pieces(geometries[i], selection, selected[i]);
  std::uint64_t total = 0;
  for (const auto& group : groups) {
    total += group.relative_runs.size() * (group.key.blocks ? selected[group.geometry].size() : 1);
    if (total > max_runs) {
      throw Error(Errc::plan, "the selection takes more than " + std::to_string(max_runs) + " runs",
                  {.operation = "plan runs", .hint = "Pull it in several ranges of positions."});
    }
  }
  RunList runs(total, many ? _impl->take(&Impl::Kept::runs) : std::vector<Run>{});
  for (const auto& group : groups) {
    group.key.blocks ? group.emit(selected[group.geometry], runs) : group.emit_all(runs);
  }
  if (many) {
    for (Pieces& pieces : selected) {
      _impl->keep(&Impl::Kept::pieces, pieces.whole);
      _impl->keep(&Impl::Kept::sorting, pieces.sorting);
    }
  }
  auto result = runs.take();
  if (_impl->aliased) check_written_once(result);
  return result;
}

void Plan::reuse(std::vector<RunGroup> groups) const {
  for (RunGroup& group : groups) _impl->keep(&Impl::Kept::bases, group.bases);
}

void Plan::reuse(std::vector<Run> runs) const { _impl->keep(&Impl::Kept::runs, runs); }

std::string Plan::summary() const {
  std::uint64_t once = 0;
  double per_position = 0;
  std::size_t used = 0;
  std::string text;
  for (std::size_t i = 0; i < _impl->shards.size(); ++i) {
    const auto& groups = _impl->shards[i].groups;
    text += "; shard " + std::to_string(i) + ": ";
    if (groups.empty()) text += "nothing";
    used += groups.empty() ? 0 : 1;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      text += (g == 0 ? "" : ", ") + describe(groups[g], _impl->shards[i].permutes);
      const auto& geometry = groups[g].key.geometry;
      if (groups[g].key.blocks) {
        const std::uint64_t positions = geometry.piece_cells() * geometry.tokens_per_cell;
        per_position += static_cast<double>(groups[g].bytes()) / static_cast<double>(positions);
      } else {
        once += groups[g].bytes();
      }
    }
  }
  std::string head = std::to_string(_impl->components) + " components from " + std::to_string(used) + " of " +
                     std::to_string(_impl->shards.size()) + " shards, " +
                     std::to_string(static_cast<std::uint64_t>(per_position)) + " bytes per position";
  if (once > 0) head += ", " + std::to_string(once) + " bytes once";
  return head + text;
}

}  // namespace kvdirect
