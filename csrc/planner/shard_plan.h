// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "planner/coverage.h"
#include "planner/map_checks.h"
#include "planner/pattern.h"
#include "planner/plan.h"
#include "planner/run_list.h"
#include "planner/selection.h"

// What a plan keeps.
namespace kvdirect {

inline constexpr std::uint64_t atom_budget = std::uint64_t{1} << 23;

// Bytes from piece to piece on one side.
struct BlockSteps {
  std::uint64_t block = 0;
  std::uint64_t piece = 0;   // inside a block, where it has more than one
  std::uint64_t pieces = 1;  // in a block
  bool operator==(const BlockSteps&) const = default;

  BlockSteps() = default;
  BlockSteps(const Component& component, const BlockGeometry& geometry, std::uint64_t pieces_per_block)
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
  BlockSteps remote, local;
  bool operator==(const GroupKey&) const = default;

  GroupKey(const Component& here, const Component& there)
      : blocks(find_axis(here, "block") != nullptr), remote_region(there.region), local_region(here.region) {
    if (!blocks) return;
    geometry = BlockGeometry(here, there);
    remote = BlockSteps(there, geometry, geometry.remote_pieces());
    local = BlockSteps(here, geometry, geometry.local_pieces());
  }
};

// Below so many bytes, lanes spend more on a run than on its bytes.
inline constexpr std::uint64_t small_run = 4096;

struct ShardGroup {
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

  void append(std::span<const RelativeRun> relative, std::vector<Run>& runs) const {
    for (const RelativeRun& one : relative) runs.push_back(run_at({}, one));
  }

  [[nodiscard]] std::uint64_t bytes() const {
    std::uint64_t total = 0;
    for (const RelativeRun& relative : relative_runs) total += relative.length;
    return total;
  }
};

// What a piece is carried in: runs, and stretches of remote memory that these make up.
struct PieceSize {
  std::uint64_t bytes = 0;
  std::uint64_t runs = 0;
  std::uint64_t stretches = 0;

  PieceSize() = default;
  explicit PieceSize(const ShardGroup& group) : bytes(group.bytes()), runs(group.relative_runs.size()) {
    std::uint64_t end = ~std::uint64_t{0};
    for (const RelativeRun& run : group.relative_runs) {
      if (run.remote != end) ++stretches;
      end = run.remote + run.length;
    }
  }
  void operator+=(const PieceSize& other) {
    bytes += other.bytes;
    runs += other.runs;
    stretches += other.stretches;
  }
  [[nodiscard]] bool small_runs() const { return bytes < runs * small_run; }
  [[nodiscard]] bool permutes() const { return small_runs() && 2 * stretches <= runs; }
};

// Groups of one shard whose pieces begin at the same distances, whatever region they are in: what they move is repeated
// together.
struct Bundle {
  const ShardGroup* first = nullptr;  // what is true of it is true of all
  std::vector<const ShardGroup*> groups;
  SharedRuns pattern;  // of a whole piece

  [[nodiscard]] bool takes(const ShardGroup& group) const {
    const GroupKey& key = first->key;
    return group.key.blocks == key.blocks && group.geometry == first->geometry && group.key.remote == key.remote &&
           group.key.local == key.local;
  }

  [[nodiscard]] RunGroup of(const PartialPiece& part) const {
    std::vector<Run> runs;
    for (const ShardGroup* group : groups) group->append(group->expand(part.first, part.cells), runs);
    return {std::move(runs), {first->base_of(part.piece)}};
  }
};

// What a plan keeps of one shard.
struct ShardPlan {
  std::vector<BlockGeometry> geometries;  // few: most groups share one, and its ids are sorted once a request
  std::vector<ShardGroup> groups;
  std::vector<Bundle> bundles;  // of these groups, once they are complete
  bool permutes = false;        // see Plan

  ShardGroup& group(const Component& local, const Component& remote) {
    const GroupKey key(local, remote);
    const auto found = std::ranges::find(groups, key, &ShardGroup::key);
    if (found != groups.end()) return *found;
    if (!key.blocks) return groups.emplace_back(ShardGroup{key, 0, {}, {}, {}});
    const auto index = static_cast<std::size_t>(std::ranges::find(geometries, key.geometry) - geometries.begin());
    if (index == geometries.size()) geometries.push_back(key.geometry);
    return groups.emplace_back(ShardGroup{key, index, {}, {}, {}});
  }

  // No group is added any more.
  void complete() {
    PieceSize size;
    for (ShardGroup& group : groups) {
      group.prepare();
      size += PieceSize(group);
      const auto found = std::ranges::find_if(bundles, [&](const Bundle& bundle) { return bundle.takes(group); });
      Bundle& bundle = found == bundles.end() ? bundles.emplace_back(Bundle{&group, {}, {}}) : *found;
      bundle.groups.push_back(&group);
    }
    permutes = size.permutes();
    for (Bundle& bundle : bundles) {
      std::vector<Run> runs;
      for (const ShardGroup* group : bundle.groups) group->append(group->relative_runs, runs);
      bundle.pattern = std::move(runs);
    }
  }
};

struct Plan::Impl {
  std::vector<ShardPlan> shards;
  std::size_t components = 0;
  bool aliased = false;

  // Memory of what is over, for what is planned next. Of each the largest, within reason.
  struct Kept {
    static constexpr std::size_t most_bytes = std::size_t{1} << 24;
    std::vector<RunGroup::Base> bases;
    std::vector<Run> runs;
    std::vector<Piece> pieces, sorting;
  };
  mutable std::mutex mutex;
  mutable Kept kept;

  template <typename Entry>
  [[nodiscard]] std::vector<Entry> take(std::vector<Entry> Kept::* what) const {
    const std::lock_guard lock(mutex);
    return std::exchange(kept.*what, {});
  }

  template <typename Entry>
  void keep(std::vector<Entry> Kept::* what, std::vector<Entry>& over) const {
    const std::lock_guard lock(mutex);
    auto& had = kept.*what;
    if (over.capacity() > had.capacity() && over.capacity() * sizeof(Entry) <= Kept::most_bytes) had.swap(over);
  }

  [[nodiscard]] const ShardPlan& shard(std::size_t index) const {
    if (index < shards.size()) return shards[index];
    throw Error(Errc::plan,
                "there is no shard " + std::to_string(index) + ", the plan has " + std::to_string(shards.size()),
                {.operation = "plan runs"});
  }
};

}  // namespace kvdirect
