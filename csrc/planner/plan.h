// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "planner/tensor_map.h"

namespace kvdirect {

// length bytes at remote_offset of the remote's region go to local_offset of the local region.
struct Run {
  std::uint64_t remote_offset = 0;
  std::uint64_t local_offset = 0;
  std::uint64_t length = 0;
  std::uint32_t remote_region = 0;
  std::uint32_t local_region = 0;
  bool operator==(const Run&) const = default;
};

// Runs that several may hold.
class SharedRuns {
 public:
  SharedRuns() : SharedRuns(std::vector<Run>{}) {}
  SharedRuns(std::vector<Run> runs)
      : _runs(std::make_shared<const std::vector<Run>>(std::move(runs))) {}  // NOLINT: as a vector

  [[nodiscard]] auto begin() const noexcept { return _runs->begin(); }
  [[nodiscard]] auto end() const noexcept { return _runs->end(); }
  [[nodiscard]] const Run* data() const noexcept { return _runs->data(); }
  [[nodiscard]] std::size_t size() const noexcept { return _runs->size(); }
  [[nodiscard]] const std::shared_ptr<const std::vector<Run>>& get() const noexcept { return _runs; }

 private:
  std::shared_ptr<const std::vector<Run>> _runs;
};

// Runs that repeat: each of `pattern` at every one of `bases`, bytes that its offsets count from. The blocks of a pull
// are bases, the layers of a block its pattern.
struct RunGroup {
  struct Base {
    std::uint64_t remote = 0;
    std::uint64_t local = 0;
    bool operator==(const Base&) const = default;
  };
  SharedRuns pattern;
  std::vector<Base> bases;

  [[nodiscard]] std::uint64_t runs() const noexcept { return pattern.size() * bases.size(); }
  [[nodiscard]] std::uint64_t bytes() const noexcept;
};

// Bytes [offset, offset + length) of a region.
struct Extent {
  std::uint32_t region = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool operator==(const Extent&) const = default;
};

// A block table: entry i holds the block with the positions [i * block_size, (i+1) * block_size). A negative id is
// a hole: never read, never written.
using BlockTable = std::span<const std::int64_t>;

// What one pull carries: positions [start, stop) of every component with a block axis (positions are tokens where the
// component has a token axis, else table entries); components without a block axis are carried whole.
struct Selection {
  std::vector<BlockTable> remote;  // one table per Component::table
  std::vector<BlockTable> local;
  std::uint64_t start = 0;
  std::uint64_t stop = 0;
  // Local tables, by number, of which this pull carries nothing; those behind the last are not of them.
  std::vector<bool> left_out = {};

  [[nodiscard]] bool leaves_out(std::uint32_t local_table) const {
    return local_table < left_out.size() && left_out[local_table];
  }
};

// How bytes get from one set of remote shards into the local map. Worked out once per set of peers; a request only
// substitutes block ids.
class Plan {
 public:
  // Throws Error(plan), naming component, axis and range, unless every byte the local map wants has exactly one
  // source; Error(mismatch) naming component, field and both values where the two sides describe a component
  // differently (dtype, item bytes, tokens per cell, component missing).
  Plan(const TensorMap& local, std::span<const TensorMap> remotes, std::uint64_t reader_index = 0);
  ~Plan();
  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;

  // The runs that read from shard `shard`, coalesced, in ascending remote order. Throws Error(plan) for a table that is
  // too short, an id outside the block axis, a local block written twice, or a wanted block whose source is a hole.
  [[nodiscard]] std::vector<Run> runs(std::size_t shard, const Selection& selection) const;

  // The same bytes without spelling out every run: for who repeats a pattern faster than this can write it down.
  [[nodiscard]] std::vector<RunGroup> groups(std::size_t shard, const Selection& selection) const;
  // Take back what nobody needs any more: its memory serves the next ones, since for many blocks fresh memory costs
  // several times what planning does. Thread-safe.
  void reuse(std::vector<RunGroup> groups) const;
  void reuse(std::vector<Run> runs) const;

  // Human-readable: bytes per position, runs per block, shards used.
  [[nodiscard]] std::string summary() const;
  [[nodiscard]] std::size_t shards() const noexcept;
  // Whether the local map has any bytes of this shard.
  [[nodiscard]] bool reads(std::size_t shard) const;
  // Whether the layouts agree only in small runs that lie together in this shard: it is better to read those together,
  // and to put them in order here.
  [[nodiscard]] bool permutes(std::size_t shard) const;

 private:
  friend class GroupCursor;
  struct Impl;
  std::unique_ptr<Impl> _impl;
};

// A selection planned part by part, so that copying begins before all of it is planned. Keeps views of the tables, and
// the plan.
class GroupCursor {
 public:
  // Blocks of a first part: planned within some microseconds.
  static constexpr std::size_t first_part = 4096;

  // Throws as Plan::groups does, but for ids that next() is to look at.
  GroupCursor(const Plan& plan, std::size_t shard, const Selection& selection);
  ~GroupCursor();
  GroupCursor(GroupCursor&&) noexcept;
  GroupCursor& operator=(GroupCursor&&) = delete;

  [[nodiscard]] bool done() const noexcept;
  // Groups of the next blocks, about so many; where the two sides' block sizes differ, or tables name blocks of one
  // pool, of all. Throws Error(plan) for the ids of these blocks, as Plan::groups does; then there is no next.
  [[nodiscard]] std::vector<RunGroup> next(std::size_t blocks);

 private:
  struct State;
  std::unique_ptr<State> _state;
};

// All bytes that the given blocks of a map occupy, sorted and merged: what a lease on them lets a peer read.
// Components without a block axis are included whole.
[[nodiscard]] std::vector<Extent> block_extents(const TensorMap& map, std::span<const BlockTable> tables);

}  // namespace kvdirect
