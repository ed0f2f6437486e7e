// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/selection.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <utility>

#include "base/error.h"
#include "planner/map_checks.h"

namespace kvdirect {

namespace {

// A bit for every block is quicker than sorting, unless there are far more blocks than entries.
constexpr std::uint64_t bitmap_blocks = std::uint64_t{1} << 23;
constexpr std::uint64_t blocks_per_entry = 4096;
constexpr std::size_t radix_from = 256;  // below, comparing is faster

[[noreturn]] void refuse(const std::string& problem) { throw Error(Errc::plan, problem, {.operation = "plan runs"}); }

std::string text(std::uint64_t value) { return std::to_string(value); }

// One side's table, checked entry by entry as it is read.
class Side {
 public:
  Side(const char* which, std::span<const BlockTable> tables, std::uint32_t table, std::uint64_t blocks)
      : _which(which), _table(table), _blocks(blocks) {
    if (table >= tables.size()) refuse(name() + " is missing, " + text(tables.size()) + " given");
    _ids = tables[table];
  }

  void need(std::uint64_t entries, std::uint64_t stop) const {
    if (entries > _ids.size()) {
      refuse(name() + " has " + text(_ids.size()) + " entries, positions below " + text(stop) + " need " +
             text(entries));
    }
  }

  [[nodiscard]] bool hole(std::uint64_t entry) const { return _ids[entry] < 0; }

  [[nodiscard]] std::uint64_t block(std::uint64_t entry) const {
    const auto id = static_cast<std::uint64_t>(_ids[entry]);
    if (id >= _blocks) {
      refuse(name() + " entry " + text(entry) + " is " + text(id) + ", the block axis has " + text(_blocks) +
             " blocks");
    }
    return id;
  }

  [[nodiscard]] BlockTable ids(std::uint64_t first, std::uint64_t last) const {
    return _ids.subspan(first, last - first + 1);
  }

  // Whether a bit for every block is quicker than sorting the entries [first, last].
  [[nodiscard]] bool dense(std::uint64_t first, std::uint64_t last) const {
    return _blocks <= bitmap_blocks && (last - first) >= _blocks / blocks_per_entry;
  }

  // No block twice among the entries [first, last].
  void check_distinct(std::uint64_t first, std::uint64_t last) const {
    if (first == last) return;
    if (dense(first, last)) {
      std::vector<std::uint64_t> seen((_blocks + 63) / 64);
      for (std::uint64_t entry = first; entry <= last; ++entry) {
        if (hole(entry)) continue;
        const std::uint64_t id = block(entry);
        std::uint64_t& word = seen[id / 64];
        if ((word >> (id % 64) & 1U) != 0) refuse_twice(id);
        word |= std::uint64_t{1} << (id % 64);
      }
      return;
    }
    std::vector<std::uint64_t> ids;
    for (std::uint64_t entry = first; entry <= last; ++entry) {
      if (!hole(entry)) ids.push_back(block(entry));
    }
    std::ranges::sort(ids);
    const auto twice = std::ranges::adjacent_find(ids);
    if (twice != ids.end()) refuse_twice(*twice);
  }

  [[noreturn]] void refuse_twice(std::uint64_t id) const {
    refuse(name() + " names block " + text(id) + " twice, it would be written twice");
  }

  [[nodiscard]] std::string name() const { return std::string(_which) + " block table " + text(_table); }

 private:
  const char* _which;
  std::uint32_t _table;
  std::uint64_t _blocks;
  BlockTable _ids;
};

void sort_by_remote(std::vector<Piece>& pieces, std::vector<Piece>& sorted) {
  if (std::ranges::is_sorted(pieces, {}, &Piece::remote)) return;
  if (pieces.size() < radix_from) {
    std::ranges::sort(pieces, {}, &Piece::remote);
    return;
  }
  constexpr unsigned bits = 11;
  constexpr std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  const std::uint64_t largest = std::ranges::max(pieces, {}, &Piece::remote).remote;
  sorted.resize(pieces.size());
  for (unsigned shift = 0; shift < 64 && largest >> shift != 0; shift += bits) {
    std::array<std::size_t, mask + 1> starts{};
    for (const Piece& piece : pieces) ++starts[(piece.remote >> shift) & mask];
    std::exclusive_scan(starts.begin(), starts.end(), starts.begin(), std::size_t{0});
    for (const Piece& piece : pieces) sorted[starts[(piece.remote >> shift) & mask]++] = piece;
    pieces.swap(sorted);
  }
}

// Follows one side's pieces in step with the selection, without a division a piece.
class Cursor {
 public:
  Cursor(std::uint64_t piece, std::uint64_t per_block)
      : _per_block(per_block), _entry(piece / per_block), _inside(piece % per_block) {}
  void advance() {
    if (++_inside == _per_block) {
      _inside = 0;
      ++_entry;
    }
  }
  [[nodiscard]] std::uint64_t entry() const { return _entry; }
  [[nodiscard]] std::uint64_t of_block(std::uint64_t block) const { return block * _per_block + _inside; }

 private:
  std::uint64_t _per_block, _entry, _inside;
};

}  // namespace

BlockGeometry::BlockGeometry(const Component& local, const Component& remote)
    : remote_table(remote.table),
      local_table(local.table),
      remote_blocks(find_axis(remote, "block")->extent),
      local_blocks(find_axis(local, "block")->extent),
      tokens_per_cell(local.tokens_per_cell) {
  if (const Axis* token = find_axis(local, "token")) {
    local_cells = token->extent;
    remote_cells = find_axis(remote, "token")->extent;
  }
}

std::uint64_t BlockGeometry::piece_cells() const noexcept { return std::gcd(remote_cells, local_cells); }

namespace {

// Both sides' tables and the cells that a selection names, checked to be there.
struct Wanted {
  Side remote, local;
  std::uint64_t first_cell = 0, last_cell = 0;

  Wanted(const BlockGeometry& geometry, const Selection& selection)
      : remote("remote", selection.remote, geometry.remote_table, geometry.remote_blocks),
        local("local", selection.local, geometry.local_table, geometry.local_blocks) {
    if (selection.start > selection.stop) {
      refuse("positions from " + text(selection.start) + " to " + text(selection.stop) + " are no range");
    }
    if (selection.start == selection.stop) return;
    // A cell that covers several tokens moves whole as soon as one of them is wanted.
    first_cell = selection.start / geometry.tokens_per_cell;
    last_cell = (selection.stop - 1) / geometry.tokens_per_cell;
    remote.need(last_cell / geometry.remote_cells + 1, selection.stop);
    local.need(last_cell / geometry.local_cells + 1, selection.stop);
  }

  // Of entries of which the local one is no hole.
  [[nodiscard]] std::uint64_t source(std::uint64_t there, std::uint64_t here) const {
    if (remote.hole(there)) {
      refuse(remote.name() + " entry " + text(there) + " is a hole, and " + local.name() + " entry " + text(here) +
             " wants it");
    }
    return remote.block(there);
  }
};

}  // namespace

void select_pieces(const BlockGeometry& geometry, const Selection& selection, Pieces& pieces) {
  pieces.whole.clear();
  pieces.partial.clear();
  if (selection.leaves_out(geometry.local_table)) return;
  const Wanted wanted(geometry, selection);
  const auto& [remote, local, first_cell, last_cell] = wanted;
  if (selection.start == selection.stop) return;
  local.check_distinct(first_cell / geometry.local_cells, last_cell / geometry.local_cells);

  const std::uint64_t size = geometry.piece_cells();
  const std::uint64_t first = first_cell / size;
  const std::uint64_t last = last_cell / size;
  pieces.whole.reserve(last - first + 1);
  Cursor there(first, geometry.remote_pieces());
  Cursor here(first, geometry.local_pieces());
  for (std::uint64_t index = first; index <= last; ++index, there.advance(), here.advance()) {
    if (local.hole(here.entry())) continue;
    const std::uint64_t source = wanted.source(there.entry(), here.entry());
    const Piece piece{there.of_block(source), here.of_block(local.block(here.entry()))};
    const std::uint64_t from = index == first ? first_cell % size : 0;
    const std::uint64_t to = index == last ? last_cell % size + 1 : size;
    if (to - from == size) {
      pieces.whole.push_back(piece);
    } else {
      pieces.partial.push_back({piece, from, to - from});
    }
  }
  sort_by_remote(pieces.whole, pieces.sorting);
}

BlockScan::BlockScan(const BlockGeometry& geometry, const Selection& selection)
    : _geometry(geometry), _selection(selection) {
  if (selection.leaves_out(geometry.local_table)) return;
  const Wanted wanted(geometry, selection);
  if (selection.start == selection.stop) return;
  const std::uint64_t size = geometry.local_cells;
  const std::uint64_t last = wanted.last_cell / size;
  _first = wanted.first_cell / size;
  _theirs = wanted.remote.ids(_first, last);
  _ours = wanted.local.ids(_first, last);
  if (wanted.local.dense(_first, last)) {
    _seen.resize((geometry.local_blocks + 63) / 64);
  } else {
    wanted.local.check_distinct(_first, last);
  }
  _end = _ours.size();
  const std::uint64_t head = wanted.first_cell % size;
  const std::uint64_t tail = wanted.last_cell % size + 1;
  if (head != 0 || (_end == 1 && tail != size)) take_part(_next++, head, _end == 1 ? tail : size);
  if (_next < _end && tail != size) take_part(--_end, 0, tail);
}

// The blocks of an entry whose local block is no hole.
struct BlockScan::Check {
  BlockScan& scan;
  // By value, so that what is written in between is known not to change them.
  const BlockTable theirs = scan._theirs, ours = scan._ours;
  const std::uint64_t remote_blocks = scan._geometry.remote_blocks, local_blocks = scan._geometry.local_blocks;
  std::uint64_t* const seen = scan._seen.empty() ? nullptr : scan._seen.data();

  Piece operator()(std::size_t index) const {
    const Piece found{static_cast<std::uint64_t>(theirs[index]), static_cast<std::uint64_t>(ours[index])};
    if (found.remote >= remote_blocks || found.local >= local_blocks) scan.refuse(index);
    if (seen == nullptr) return found;
    std::uint64_t& word = seen[found.local / 64];
    const std::uint64_t bit = std::uint64_t{1} << (found.local % 64);
    if ((word & bit) != 0) scan.refuse(index);
    word |= bit;
    return found;
  }
};

void BlockScan::take_part(std::size_t index, std::uint64_t from, std::uint64_t to) {
  if (_ours[index] >= 0) _partial.push_back({Check{*this}(index), from, to - from});
}

void BlockScan::take(std::size_t entries, const RunGroup::Base& step, std::vector<RunGroup::Base>& bases) {
  const std::size_t begin = _next;
  _next += std::min(entries, left());
  // What a buffer held before is written over: making room one by one, or clearing it first, costs as much as the rest.
  bases.resize(_next - begin);
  const Check checked{*this};
  const auto [remote_step, local_step] = step;
  RunGroup::Base* out = bases.data();
  for (std::size_t i = begin, end = _next; i < end; ++i) {
    if (checked.ours[i] < 0) continue;
    const Piece block = checked(i);
    *out++ = {block.remote * remote_step, block.local * local_step};
  }
  bases.resize(static_cast<std::size_t>(out - bases.data()));
}

void BlockScan::refuse(std::size_t index) const {
  const Wanted wanted(_geometry, _selection);
  static_cast<void>(wanted.source(_first + index, _first + index));
  wanted.local.refuse_twice(wanted.local.block(_first + index));
}

}  // namespace kvdirect
