// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>

#include "memory/block_copy.h"
#include "memory/regions.h"
#include "planner/piece_cursor.h"

namespace kvdirect {

// Read at once where a pull permutes: enough for a call to cost little, little enough to lie in the caches until it is
// put in place. Each connection of the message lane keeps so much from its first such pull on, and each thread that
// copies by cma while it does.
inline constexpr std::size_t arrival_bytes = 128 << 10;

// Copies bytes that arrived together to where their pieces belong. Ordered as copy_block() is.
inline void put_in_place(const Published& local, PieceCursor pieces, const std::byte* arrived, Use use) noexcept {
  while (!pieces.done()) {
    const Run piece = pieces.take();
    copy_block(local.regions[piece.local_region].address + piece.local_offset, arrived, piece.length, use);
    arrived += piece.length;
  }
}

}  // namespace kvdirect
