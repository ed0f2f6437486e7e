// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/tile_list.h"

#include <algorithm>

namespace kvdirect {

namespace {

std::uint64_t bytes_of(std::span<const CopyBox> boxes) noexcept {
  std::uint64_t total = 0;
  for (const CopyBox& box : boxes) total += bytes_of(box);
  return total;
}

unsigned width_of(std::span<const RunGroup::Base> bases) noexcept {
  std::uint64_t all = 0;
  for (const RunGroup::Base& base : bases) all |= base.remote | base.local;
  return widest_access(all);
}

}  // namespace

std::uint64_t TileList::Tile::bytes() const noexcept { return bytes_of(boxes) * bases.size(); }

TileList::TileList(std::span<const RunGroup> groups, const RegionAddresses& addresses) {
  BoxCache boxes(addresses);
  *this = TileList(groups, boxes);
}

TileList::TileList(std::span<const RunGroup> groups, BoxCache& boxes) {
  _parts.reserve(groups.size());
  for (const RunGroup& group : groups) {
    if (group.runs() == 0) continue;
    _parts.push_back({boxes.of(group.pattern), group.bases, width_of(group.bases)});
  }
}

std::size_t TileList::told() const noexcept {
  std::size_t bytes = 0;
  for (const Part& part : std::span(_parts).subspan(_part)) {
    bytes += sizeof(CopyTile) + part.boxes->size() * sizeof(CopyBox) + part.bases.size() * sizeof(CopyBase);
  }
  return bytes;
}

std::optional<TileList::Tile> TileList::next(Room room) {
  // At least one base.
  const std::size_t told = room.told - std::min(room.told, sizeof(CopyTile));
  room.boxes = std::min(room.boxes, (told - std::min(told, sizeof(CopyBase))) / sizeof(CopyBox));
  const Part& part = _parts[_part];
  const std::span all(*part.boxes);
  // How many boxes are taken at a time is settled at the first base: every base gets the same.
  if (_base == 0) {
    _end = std::min(all.size(), _first + room.boxes);
    while (_end > _first + 1 && bytes_of(all.subspan(_first, _end - _first)) > room.bytes) _end -= (_end - _first) / 2;
  }
  if (_end - _first > room.boxes || room.boxes == 0 || room.bases == 0) return std::nullopt;
  const auto chosen = all.subspan(_first, _end - _first);
  const auto fitting = static_cast<std::size_t>(std::max<std::uint64_t>(room.bytes / bytes_of(chosen), 1));
  const std::size_t tellable = (told - chosen.size() * sizeof(CopyBox)) / sizeof(CopyBase);
  const std::size_t bases = std::min({part.bases.size() - _base, room.bases, fitting, tellable});
  const Tile tile{chosen, part.bases.subspan(_base, bases), part.width};
  _base += bases;
  _given += tile.bytes();
  if (_base == part.bases.size()) advance(part);
  return tile;
}

void TileList::advance(const Part& part) {
  _base = 0;
  _first = _end;
  if (_first < part.boxes->size()) return;
  _first = 0;
  ++_part;
}

}  // namespace kvdirect
