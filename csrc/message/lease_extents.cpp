// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "message/lease_extents.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <ranges>
#include <utility>

namespace kvdirect {

namespace {

// The index of the one with this number in it, if one has.
std::optional<std::size_t> around(std::span<const Stretch> stretches, std::uint64_t number) {
  const auto behind = std::ranges::upper_bound(stretches, number, {}, &Stretch::begin);
  if (behind == stretches.begin() || number >= std::prev(behind)->end) return std::nullopt;
  return static_cast<std::size_t>(behind - stretches.begin()) - 1;
}

// Compares runs with what is leased. Readers ask in ascending order, so a run mostly lies where the last one did or in
// the next piece. One that goes through several is followed from each to the next, as far as there is a next.
class Walk {
 public:
  Walk(std::span<const BlockPool> pools, const BlockIds& ids) : _pools(pools), _ids(ids) {}

  bool covers(const WireRun& run) {
    if (run.length == 0 || run.offset + run.length < run.offset) return false;
    const std::uint64_t end = run.offset + run.length;
    for (std::uint64_t byte = run.offset; byte < end; byte = _here.end) {
      const bool found = holds(run.region, byte) || (step() && holds(run.region, byte)) || find(run.region, byte);
      if (!found) return false;
    }
    return true;
  }

 private:
  [[nodiscard]] bool holds(std::uint32_t region, std::uint64_t byte) const {
    return _here.begin <= byte && byte < _here.end && region == _pool->region;
  }

  // To the next piece of the same pool.
  bool step() {
    if (++_piece < _pieces.size()) {
      stand();
      return true;
    }
    if (++_block >= _blocks.end) {
      if (_leased.empty()) return false;
      _blocks = _leased.front();
      _leased = _leased.subspan(1);
      _block = _blocks.begin;
    }
    _piece = 0;
    stand();
    return true;
  }

  bool find(std::uint32_t region, std::uint64_t byte) {
    const auto behind = std::ranges::upper_bound(
        _pools, std::pair(region, byte), {}, [](const BlockPool& pool) { return std::pair(pool.region, pool.start); });
    for (const BlockPool& pool : std::ranges::reverse_view(std::ranges::subrange(_pools.begin(), behind))) {
      if (pool.region != region || pool.reach <= byte) return false;
      if (find_in(pool, byte)) return true;
    }
    return false;
  }

  bool find_in(const BlockPool& pool, std::uint64_t byte) {
    const std::uint64_t block = (byte - pool.start) / pool.stride;
    const auto leased = _ids.of(pool);
    const auto blocks = around(leased, block);
    const auto piece = around(pool.pieces, (byte - pool.start) % pool.stride);
    if (!blocks || !piece) return false;
    _pool = &pool;
    _blocks = leased[*blocks];
    _block = block;
    _leased = leased.subspan(*blocks + 1);
    _pieces = pool.pieces;
    _piece = *piece;
    stand();
    return true;
  }

  void stand() {
    if (_pool->without_gaps()) {
      _block = _blocks.end - 1;
      _here = {_pool->start + _blocks.begin * _pool->stride, _pool->start + _blocks.end * _pool->stride};
    } else {
      const std::uint64_t start = _pool->start + _block * _pool->stride;
      _here = {start + _pieces[_piece].begin, start + _pieces[_piece].end};
    }
  }

  std::span<const BlockPool> _pools;
  const BlockIds& _ids;
  Stretch _here;                     // the last leased bytes that were found: a piece, or blocks that touch
  const BlockPool* _pool = nullptr;  // where they are
  Stretch _blocks;                   // ids, of which
  std::uint64_t _block = 0;          // this one, or the last of those that touch, is here
  std::span<const Stretch> _leased;  // ids behind these
  std::span<const Stretch> _pieces;  // of a block
  std::size_t _piece = 0;
};

std::vector<std::vector<Stretch>> stretches(const LeaseTable::Ranges& ranges) {
  std::vector<std::vector<Stretch>> all;
  for (const auto& table : ranges) {
    auto& here = all.emplace_back();
    for (const LeaseTable::Range& range : table) here.push_back({range.begin, range.end});
  }
  return all;
}

bool all_inside(std::span<const BlockPool> pools, const BlockIds& ids, std::span<const WireRun> runs) {
  Walk walk(pools, ids);
  return std::ranges::all_of(runs, [&](const WireRun& run) { return walk.covers(run); });
}

}  // namespace

std::shared_ptr<const BlockIds> LeaseExtents::known(LeaseRef lease) {
  const std::lock_guard lock(_mutex);
  const auto found = _entries.find(lease.slot);
  return found != _entries.end() && found->second.epoch == lease.epoch ? found->second.ids : nullptr;
}

bool LeaseExtents::covers(const Published& published, LeaseRef lease, std::span<const WireRun> runs) {
  const auto ids = known(lease);
  if (ids && all_inside(*_pools, *ids, runs)) return true;
  // Unknown, or blocks were added since.
  const auto added = _leases->blocks(lease, ids ? ids->entries() : std::span<const std::size_t>{});
  const auto ranges = _leases->ranges(lease, ids ? ids->ranges() : std::span<const std::size_t>{});
  if (!added || !ranges) return false;
  const auto none = [](const auto& of_tables) {
    return std::ranges::all_of(of_tables, [](auto& t) { return t.empty(); });
  };
  if (ids && none(*added) && none(*ranges)) return false;
  {
    const std::lock_guard lock(_mutex);
    if (!_pools) _pools.emplace(block_pools(published.map));
  }
  const auto grown = ids ? std::make_shared<BlockIds>(*ids) : std::make_shared<BlockIds>();
  grown->add(*_pools, std::vector<BlockTable>(added->begin(), added->end()), stretches(*ranges));
  {
    const std::lock_guard lock(_mutex);
    _entries[lease.slot] = {lease.epoch, grown};
  }
  return all_inside(*_pools, *grown, runs);
}

void LeaseExtents::sweep() {
  const std::lock_guard lock(_mutex);
  std::erase_if(_entries, [this](const auto& entry) {
    return _leases->verdict({entry.first, entry.second.epoch}, 0) == LeaseVerdict::expired;
  });
}

}  // namespace kvdirect
