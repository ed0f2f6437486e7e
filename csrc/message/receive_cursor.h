// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "memory/block_copy.h"
#include "memory/put_in_place.h"
#include "message/stripe.h"

namespace kvdirect {

// Says where the byte stream of one stripe of a pull belongs: into its runs, in order. Addresses come from the
// reader's own run list only.
class ReceiveCursor {
 public:
  explicit ReceiveCursor(Stripe stripe) noexcept : _stripe(std::move(stripe)), _next(_stripe.landing()) {}

  [[nodiscard]] const Stripe& stripe() const noexcept { return _stripe; }

  // Whether its bytes arrive elsewhere, and are put where they belong here.
  [[nodiscard]] bool permutes() const noexcept { return _stripe.pull().job().permutes; }

  // Whether these bytes are the next ones wanted.
  [[nodiscard]] bool expects(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    return offset == _stripe.bytes() - _next.left() && bytes <= _next.left();
  }

  // Where the next `bytes` (that are expected) go, as far as they fit in `parts`; the number of parts.
  std::size_t place(std::uint64_t bytes, std::span<iovec> parts) const noexcept {
    std::size_t count = 0;
    PieceCursor next = _next.first(bytes);
    const auto& regions = _stripe.pull().job().local->regions;
    while (!next.done() && count < parts.size()) {
      const Run piece = next.take();
      parts[count++] = {regions[piece.local_region].address + piece.local_offset, piece.length};
    }
    return count;
  }

  // Puts the next bytes there from where they arrived.
  void put(const std::byte* arrived, std::uint64_t bytes) noexcept {
    const PullJob& job = _stripe.pull().job();
    put_in_place(*job.local, _next.first(bytes), arrived, use_of(job.landing()));
    copies_done();
    advance(bytes);
  }

  // They are there.
  void advance(std::uint64_t bytes) noexcept { _next.skip(bytes); }

  [[nodiscard]] bool complete() const noexcept { return _next.done(); }

 private:
  Stripe _stripe;
  PieceCursor _next;
};

}  // namespace kvdirect
