// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "destination.h"

#include <cstring>

#include "stamp.h"

namespace kvdirect::stress {

namespace {

constexpr unsigned char guard = 0xE5;

bool is_guard(const std::uint64_t* row) noexcept {
  static const std::vector<unsigned char> expected(layout::row_bytes, guard);
  return std::memcmp(row, expected.data(), layout::row_bytes) == 0;
}

// All positions of the blocks that these positions lie in.
Destination::Part whole_blocks(Destination::Part part) noexcept {
  return {part.start / layout::tokens * layout::tokens,
          (part.stop + layout::tokens - 1) / layout::tokens * layout::tokens};
}

}  // namespace

Destination::Destination(std::uint64_t* words, layout::Rows rows, std::uint64_t first)
    : _words(words), _rows(rows), _first(first) {
  for (std::uint64_t entry = 0; entry < layout::blocks_per_slot; ++entry) {
    _table.push_back(static_cast<std::int64_t>(first + entry));
  }
  overwrite({0, layout::positions}, {});
}

template <typename Body>
bool Destination::every_row(Part part, Body body) const noexcept {
  for (std::uint64_t position = part.start; position < part.stop; ++position) {
    for (std::uint64_t page = 0; page < layout::components * layout::layers; ++page) {
      const std::uint64_t place = _rows.place(page / layout::layers, page % layout::layers,
                                              _first + position / layout::tokens, position % layout::tokens);
      if (!body(_words + place, position, page)) return false;
    }
  }
  return true;
}

bool Destination::holds(std::uint64_t epoch, Part part) const noexcept {
  return every_row(part, [epoch](const std::uint64_t* row, std::uint64_t position, std::uint64_t page) {
    return row_holds(row, stamp(epoch, position, page));
  });
}

bool Destination::guarded_around(Part part) const noexcept {
  const auto guarded = [](const std::uint64_t* row, std::uint64_t, std::uint64_t) { return is_guard(row); };
  const Part whole = whole_blocks(part);
  return every_row({whole.start, part.start}, guarded) && every_row({part.stop, whole.stop}, guarded);
}

void Destination::overwrite(Part part, Clock::time_point now) noexcept {
  _last = whole_blocks(part);
  _overwritten = now;
  static_cast<void>(every_row(_last, [](std::uint64_t* row, std::uint64_t, std::uint64_t) {
    std::memset(row, guard, layout::row_bytes);
    return true;
  }));
}

bool Destination::unchanged() const noexcept {
  return every_row(_last, [](const std::uint64_t* row, std::uint64_t, std::uint64_t) { return is_guard(row); });
}

}  // namespace kvdirect::stress
