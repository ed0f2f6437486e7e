// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/plan.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "planner/coverage.h"
#include "planner/map_checks.h"
#include "planner/pattern.h"
#include "planner/run_list.h"
#include "planner/selection.h"

namespace kvdirect {

namespace {

constexpr std::uint64_t match_budget = std::uint64_t{1} << 26;
constexpr std::uint64_t atom_budget = std::uint64_t{1} << 23;
constexpr std::uint64_t max_runs = std::uint64_t{1} << 23;
constexpr std::size_t most_kept = std::size_t{1} << 20;  // bases: 16 MiB
constexpr std::uint64_t small_run = 4096;                // bytes; below, lanes spend more on the run than on its bytes

// Bytes from piece to piece on one side.
struct Steps {
  std::uint64_t block = 0;
  std::uint64_t piece = 0;   // inside a block, where it has more than one
  std::uint64_t pieces = 1;  // in a block
  bool operator==(const Steps&) const = default;

  Steps() = default;
  Steps(const Component& component, const BlockGeometry& geometry, std::uint64_t pieces_per_block)
      : block(find_axis(component, "block")->stride), pieces(pieces_per_block) {
    if (pieces > 1) piece = find_axis(component, "token")->stride * geometry.piece_cells();
  }
  [[nodiscard]] std::uint64_t base(std::uint64_t index) const noexcept {
    return pieces == 1 ? index * block : index / pieces * block + index % pieces * piece;
  }
  [[nodiscard]] std::uint64_t closest() const noexcept { return pieces > 1 ? std::min(block, piece) : block; }
};

// What components of one shard must agree in to be moved, and merged, together.
struct GroupKey {
  bool blocks = false;
  std::uint32_t remote_region = 0;
  std::uint32_t local_region = 0;
  BlockGeometry geometry;
  Steps remote, local;
  bool operator==(const GroupKey&) const = default;

  GroupKey(const Component& here, const Component& there)
      : blocks(find_axis(here, "block") != nullptr), remote_region(there.region), local_region(here.region) {
    if (!blocks) return;
    geometry = BlockGeometry(here, there);
    remote = Steps(there, geometry, geometry.remote_pieces());
    local = Steps(here, geometry, geometry.local_pieces());
  }
};

struct Group {
  GroupKey key;
  std::size_t geometry = 0;  // its place among the shard's geometries
  std::vector<Pattern> patterns;
  std::vector<RelativeRun> relative_runs;  // of a whole piece
  std::vector<std::size_t> clusters;       // ends of stretches of atoms that fit between two neighbouring pieces

  [[nodiscard]] std::vector<RelativeRun> expand(std::uint64_t first, std::uint64_t cells) const {
    Budget budget(atom_budget);
    std::vector<RelativeRun> result;
    for (const auto& pattern : patterns) pattern.expand(first, cells, result, budget);
    coalesce(result);
    return result;
  }

  void prepare() {
    relative_runs = expand(0, key.geometry.piece_cells());
    std::uint64_t start = relative_runs.front().remote;
    for (std::size_t i = 0; i < relative_runs.size(); ++i) {
      if (!key.blocks || relative_runs[i].remote + relative_runs[i].length - start <= key.remote.closest()) continue;
      start = relative_runs[i].remote;
      if (i > 0) clusters.push_back(i);
    }
    clusters.push_back(relative_runs.size());
  }

  [[nodiscard]] RunGroup::Base base_of(const Piece& piece) const {
    return {key.remote.base(piece.remote), key.local.base(piece.local)};
  }

  [[nodiscard]] Run run_at(const RunGroup::Base& base, const RelativeRun& relative) const {
    return {.remote_offset = base.remote + relative.remote,
            .local_offset = base.local + relative.local,
            .length = relative.length,
            .remote_region = key.remote_region,
            .local_region = key.local_region};
  }

  // Cluster by cluster: with blocks outermost there is one, with layers outermost one a layer, and either way the
  // runs come out ascending as long as the pieces are.
  void emit(const Pieces& pieces, RunList& runs) const {
    std::size_t begin = 0;
    for (const std::size_t end : clusters) {
      for (const Piece& piece : pieces.whole) {
        const RunGroup::Base base = base_of(piece);
        for (std::size_t i = begin; i < end; ++i) runs.append(run_at(base, relative_runs[i]));
      }
      begin = end;
    }
    for (const auto& [piece, first, cells] : pieces.partial) {
      const RunGroup::Base base = base_of(piece);
      for (const RelativeRun& relative : expand(first, cells)) runs.append(run_at(base, relative));
    }
  }

  void emit_all(RunList& runs) const {
    for (const RelativeRun& relative : relative_runs) runs.append(run_at({}, relative));
  }

  [[nodiscard]] RunGroup repeated(std::span<const RelativeRun> pattern, std::vector<RunGroup::Base> bases) const {
    RunGroup group{{}, std::move(bases)};
    group.pattern.reserve(pattern.size());
    for (const RelativeRun& relative : pattern) group.pattern.push_back(run_at({}, relative));
    return group;
  }

  void emit(BlockBases bases, std::vector<RunGroup>& result) const {
    if (!bases.whole.empty()) result.push_back(repeated(relative_runs, std::move(bases.whole)));
    for (const auto& [piece, first, cells] : bases.partial) {
      result.push_back(repeated(expand(first, cells), {base_of(piece)}));
    }
  }

  [[nodiscard]] BlockBases bases(const Selection& selection, std::vector<RunGroup::Base> buffer) const {
    if (key.geometry.alike()) {
      return select_bases(key.geometry, selection, {key.remote.block, key.local.block}, std::move(buffer));
    }
    auto pieces = select_pieces(key.geometry, selection);
    BlockBases found{{}, std::move(pieces.partial)};
    found.whole.reserve(pieces.whole.size());
    for (const Piece& piece : pieces.whole) found.whole.push_back(base_of(piece));
    return found;
  }

  [[nodiscard]] std::uint64_t bytes() const {
    std::uint64_t total = 0;
    for (const RelativeRun& relative : relative_runs) total += relative.length;
    return total;
  }
};

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

}  // namespace

std::uint64_t RunGroup::bytes() const noexcept {
  std::uint64_t total = 0;
  for (const Run& run : pattern) total += run.length;
  return total * bases.size();
}

struct Plan::Impl {
  struct Shard {
    std::vector<BlockGeometry> geometries;  // few: most groups share one, and its ids are sorted once a request
    std::vector<Group> groups;

    Group& group(const Component& local, const Component& remote) {
      const GroupKey key(local, remote);
      const auto found = std::ranges::find(groups, key, &Group::key);
      if (found != groups.end()) return *found;
      if (!key.blocks) return groups.emplace_back(Group{key, 0, {}, {}, {}});
      const auto index = static_cast<std::size_t>(std::ranges::find(geometries, key.geometry) - geometries.begin());
      if (index == geometries.size()) geometries.push_back(key.geometry);
      return groups.emplace_back(Group{key, index, {}, {}, {}});
    }
  };

  std::vector<Shard> shards;
  std::size_t components = 0;
  bool aliased = false;

  mutable std::mutex mutex;
  mutable std::vector<RunGroup::Base> kept;

  [[nodiscard]] std::vector<RunGroup::Base> buffer() const {
    const std::lock_guard lock(mutex);
    return std::exchange(kept, {});
  }

  [[nodiscard]] const Shard& shard(std::size_t index) const {
    if (index < shards.size()) return shards[index];
    throw Error(Errc::plan,
                "there is no shard " + std::to_string(index) + ", the plan has " + std::to_string(shards.size()),
                {.operation = "plan runs"});
  }

  [[nodiscard]] std::string describe(const Group& group) const {
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
    if (group.bytes() / group.relative_runs.size() < small_run)
      text += " (small runs: the layouts agree only in pieces)";
    return text;
  }
};

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
  for (auto& shard : _impl->shards) {
    for (auto& group : shard.groups) group.prepare();
  }
}

Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;

std::size_t Plan::shards() const noexcept { return _impl->shards.size(); }

std::vector<Run> Plan::runs(std::size_t shard, const Selection& selection) const {
  const auto& [geometries, groups] = _impl->shard(shard);
  std::vector<Pieces> selected;
  for (const auto& geometry : geometries) selected.push_back(select_pieces(geometry, selection));
  std::uint64_t total = 0;
  for (const auto& group : groups) {
    total += group.relative_runs.size() * (group.key.blocks ? selected[group.geometry].size() : 1);
    if (total > max_runs) {
      throw Error(Errc::plan, "the selection takes more than " + std::to_string(max_runs) + " runs",
                  {.operation = "plan runs", .hint = "Pull it in several ranges of positions."});
    }
  }
  RunList runs(total);
  for (const auto& group : groups) {
    group.key.blocks ? group.emit(selected[group.geometry], runs) : group.emit_all(runs);
  }
  auto result = runs.take();
  if (_impl->aliased) check_written_once(result);
  return result;
}

std::vector<RunGroup> Plan::groups(std::size_t shard, const Selection& selection) const {
  // Whether a byte would be written twice shows only in the runs themselves.
  if (_impl->aliased) return {RunGroup{runs(shard, selection), {RunGroup::Base{}}}};
  std::vector<RunGroup> result;
  for (const auto& group : _impl->shard(shard).groups) {
    if (group.key.blocks) {
      group.emit(group.bases(selection, _impl->buffer()), result);
    } else {
      result.push_back(group.repeated(group.relative_runs, {RunGroup::Base{}}));
    }
  }
  return result;
}

void Plan::reuse(std::vector<RunGroup> groups) const {
  const std::lock_guard lock(_impl->mutex);
  for (RunGroup& group : groups) {
    if (group.bases.capacity() > _impl->kept.capacity() && group.bases.capacity() <= most_kept) {
      _impl->kept.swap(group.bases);
    }
  }
}

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
      text += (g == 0 ? "" : ", ") + _impl->describe(groups[g]);
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
