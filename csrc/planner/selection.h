// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <vector>

#include "planner/plan.h"
#include "planner/tensor_map.h"

namespace kvdirect {

// How positions become blocks on both sides. Where the block sizes differ, both are cut into pieces of the greatest
// common size.
struct BlockGeometry {
  std::uint32_t remote_table = 0;
  std::uint32_t local_table = 0;
  std::uint64_t remote_blocks = 0;  // extents of the block axes
  std::uint64_t local_blocks = 0;
  std::uint64_t remote_cells = 1;  // token cells per block
  std::uint64_t local_cells = 1;
  std::uint32_t tokens_per_cell = 1;
  bool operator==(const BlockGeometry&) const = default;

  BlockGeometry() = default;
  // Both components have a block axis.
  BlockGeometry(const Component& local, const Component& remote);

  [[nodiscard]] std::uint64_t piece_cells() const noexcept;
  [[nodiscard]] std::uint64_t remote_pieces() const noexcept { return remote_cells / piece_cells(); }  // in a block
  [[nodiscard]] std::uint64_t local_pieces() const noexcept { return local_cells / piece_cells(); }
  // Blocks of both sides are of one size, and so are pieces.
  [[nodiscard]] bool alike() const noexcept { return remote_cells == local_cells; }
};

// Block id times pieces per block, plus the piece inside the block.
struct Piece {
  std::uint64_t remote = 0;
  std::uint64_t local = 0;
};

// A piece at an end of the selection of which only `cells` cells from `first` on are wanted.
struct PartialPiece {
  Piece piece;
  std::uint64_t first = 0;
  std::uint64_t cells = 0;
};

struct Pieces {
  std::vector<Piece> whole;    // ascending by remote
  std::vector<Piece> sorting;  // room to sort them in, kept with them for whoever selects next
  std::vector<PartialPiece> partial;
  [[nodiscard]] std::size_t size() const noexcept { return whole.size() + partial.size(); }
};

// What the selection asks for. Throws Error(plan) for a table that is missing or too short, an id outside its axis, a
// local block named twice, a wanted block whose source is a hole. Tables are not trusted. `pieces`: those of
// an earlier one may be written over.
void select_pieces(const BlockGeometry& geometry, const Selection& selection, Pieces& pieces);

// The same where blocks are alike, some at a time, in one pass over the ids: for who needs no order. An entry is
// checked when it is taken, a table's length at once.
class BlockScan {
 public:
  // Keeps views of the tables, and the geometry.
  BlockScan(const BlockGeometry& geometry, const Selection& selection);

  // Blocks of which a part is wanted.
  [[nodiscard]] const std::vector<PartialPiece>& partial() const noexcept { return _partial; }
  // Entries of the others that were not taken yet.
  [[nodiscard]] std::size_t left() const noexcept { return _end - _next; }
  // Writes where the blocks of the next entries begin over what is in `bases`. `step`: bytes from block to block.
  void take(std::size_t entries, const RunGroup::Base& step, std::vector<RunGroup::Base>& bases);

 private:
  struct Check;
  void take_part(std::size_t index, std::uint64_t from, std::uint64_t to);
  [[noreturn]] void refuse(std::size_t index) const;

  const BlockGeometry& _geometry;
  Selection _selection;
  std::uint64_t _first = 0;  // entry of the tables at which these begin:
  BlockTable _theirs, _ours;
  std::vector<std::uint64_t> _seen;  // a bit for every local block; empty: that none is there twice is known
  std::vector<PartialPiece> _partial;
  std::size_t _next = 0, _end = 0;
};

}  // namespace kvdirect
