// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "tiles.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "extents.h"
#include "mappings.h"

namespace kvdirect::sim {

namespace {

constexpr const char* who = "the copy kernel";

// A tile and what its pointers lead to.
struct HeldTile {
  CopyTile tile;
  std::vector<CopyBox> boxes;
  std::vector<CopyBase> bases;
};

template <typename Item>
std::vector<Item> fetch(const Context& context, const Item* from, std::size_t count) {
  if (count == 0) return {};
  const auto address = reinterpret_cast<std::uintptr_t>(from);
  if (address % alignof(Item) != 0) {
    throw Fault{CUDA_ERROR_MISALIGNED_ADDRESS, "the copy kernel's list at " + hex(address) + " is misaligned"};
  }
  std::vector<Item> items(count);
  const std::size_t bytes = count * sizeof(Item);
  std::memcpy(items.data(), reach(context, address, bytes, Access::read, who), bytes);
  return items;
}

// `fetch_list`: a list at an address.
template <typename FetchList>
std::vector<HeldTile> hold(const std::vector<CopyTile>& tiles, std::uint64_t all_units, const FetchList& fetch_list) {
  std::vector<HeldTile> held;
  std::uint64_t units = 0;
  for (const CopyTile& tile : tiles) {
    if (tile.box_count == 0 || tile.base_count == 0) undefined("a tile has no boxes or no bases");
    if (tile.first_unit != units) undefined("a tile's first_unit is not what the tiles before it have");
    units += std::uint64_t{tile.box_count} * tile.base_count;
    held.push_back({tile, fetch_list(tile.boxes, tile.box_count), fetch_list(tile.bases, tile.base_count)});
  }
  if (units != all_units) undefined("the copy kernel's units are not what its tiles have");
  return held;
}

std::vector<HeldTile> fetch_tiles(const Context& context, const CopyArguments& arguments) {
  const auto tiles = fetch(context, reinterpret_cast<const CopyTile*>(arguments.tiles), arguments.tile_count);
  return hold(tiles, arguments.units, [&](const auto* from, unsigned count) { return fetch(context, from, count); });
}

// In an order's bytes.
template <typename Item>
Item* find_list(CopyOrder& order, std::uint64_t at, std::size_t count) {
  if (at > sizeof order.bytes || count * sizeof(Item) > sizeof order.bytes - at) {
    undefined("an order's list ends behind its bytes");
  }
  if (at % alignof(Item) != 0) {
    throw Fault{CUDA_ERROR_MISALIGNED_ADDRESS, "an order's list at " + hex(at) + " is misaligned"};
  }
  return reinterpret_cast<Item*>(order.bytes + at);
}

void check_width(unsigned width) {
  if (width != 16 && width != 8 && width != 4 && width != 2 && width != 1) {
    undefined("a box or tile has width " + std::to_string(width));
  }
}

void check_shape(const CopyBox& box) {
  if (box.rows == 0 || box.planes == 0) undefined("a box has no rows or no planes");
  if (box.row_bytes % box.width != 0) undefined("a box's row_bytes is no multiple of its width");
  // The kernel counts the items of a box in 32 bits.
  if (std::uint64_t{box.row_bytes} * box.rows * box.planes > UINT32_MAX) undefined("a box holds more than 4 GiB");
  std::uint64_t all = box.source | box.target;
  if (box.rows > 1) all |= box.source_row | box.target_row;
  if (box.planes > 1) all |= box.source_plane | box.target_plane;
  if (all % box.width == 0) return;
  throw Fault{CUDA_ERROR_MISALIGNED_ADDRESS, "a box of width " + std::to_string(box.width) +
                                                 " has an address or step that it does not divide, from " +
                                                 hex(box.source) + " to " + hex(box.target)};
}

// Calls `use` for each box at each base, as the kernel copies it.
template <typename Use>
void for_units(const std::vector<HeldTile>& held, const Use& use) {
  for (const HeldTile& one : held) {
    check_width(one.tile.width);
    for (const CopyBox& box : one.boxes) {
      check_width(box.width);
      for (const CopyBase& base : one.bases) {
        CopyBox unit = box;
        unit.source += base.source;
        unit.target += base.target;
        unit.width = std::min(box.width, one.tile.width);
        use(unit);
      }
    }
  }
}

template <typename Use>
void for_rows(const CopyBox& box, const Use& use) {
  for (std::uint64_t plane = 0; plane < box.planes; ++plane) {
    for (std::uint64_t row = 0; row < box.rows; ++row) {
      use(box.source + row * box.source_row + plane * box.source_plane,
          box.target + row * box.target_row + plane * box.target_plane);
    }
  }
}

void check_units(const Context& context, const std::vector<HeldTile>& held) {
  std::vector<Extent> sources;
  std::vector<Extent> targets;
  for_units(held, [&](const CopyBox& unit) {
    check_shape(unit);
    if (unit.row_bytes == 0) return;
    for_rows(unit, [&](std::uint64_t source, std::uint64_t target) {
      static_cast<void>(reach(context, source, unit.row_bytes, Access::read, who));
      static_cast<void>(reach(context, target, unit.row_bytes, Access::write, who));
      sources.push_back({source, unit.row_bytes});
      targets.push_back({target, unit.row_bytes});
    });
  });
  check_independent(std::move(sources), std::move(targets), who);
}

// Makes tiles that the host can run: their lists are at hand, and their boxes where the memory really is.
std::vector<CopyTile> make_runnable(std::vector<HeldTile>& held) {
  std::vector<CopyTile> tiles;
  for (HeldTile& one : held) {
    for (CopyBox& box : one.boxes) {
      box.source += displacement();
      box.target += displacement();
    }
    one.tile.boxes = one.boxes.data();
    one.tile.bases = one.bases.data();
    tiles.push_back(one.tile);
  }
  return tiles;
}

}  // namespace

void copy_tiles(const Context& context, Kernel kernel, const Grid& grid, const CopyArguments& arguments) {
  if (arguments.units == 0) return;
  const std::shared_lock lock(mappings().mutex);
  auto held = fetch_tiles(context, arguments);
  check_units(context, held);
  run_copy_kernel(kernel, grid, make_runnable(held), arguments.units);
}

void copy_order(const Context& context, const Grid& grid, CopyOrder& order) {
  if (order.units == 0) return;
  const std::shared_lock lock(mappings().mutex);
  const CopyTile* const first = find_list<CopyTile>(order, order.tiles, order.tile_count);
  const std::vector<CopyTile> tiles(first, first + order.tile_count);
  check_units(context, hold(tiles, order.units, [&](const auto* from, unsigned count) {
                using Item = std::remove_cvref_t<decltype(*from)>;
                const Item* const list = find_list<Item>(order, reinterpret_cast<std::uintptr_t>(from), count);
                return std::vector<Item>(list, list + count);
              }));
  // Once where several tiles name the same boxes.
  std::set<CopyBox*> boxes;
  for (const CopyTile& tile : tiles) {
    CopyBox* const list = find_list<CopyBox>(order, reinterpret_cast<std::uintptr_t>(tile.boxes), tile.box_count);
    for (unsigned i = 0; i < tile.box_count; ++i) boxes.insert(list + i);
  }
  for (CopyBox* box : boxes) {
    box->source += displacement();
    box->target += displacement();
  }
  run_copy_kernel(grid, order);
}

}  // namespace kvdirect::sim
