// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "message/stripe.h"

namespace kvdirect {

// Says where the byte stream of one stripe of a pull belongs: into its runs, in order. Addresses come from the
// reader's own run list only.
class ReceiveCursor {
 public:
  explicit ReceiveCursor(Stripe stripe) noexcept : _stripe(std::move(stripe)) {}

  [[nodiscard]] const Stripe& stripe() const noexcept { return _stripe; }

  // Whether these bytes are the next ones wanted.
  [[nodiscard]] bool expects(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    return offset == _landed && bytes <= _stripe.bytes() - _landed;
  }

  // Where the next `bytes` (that are expected) go, as far as they fit in `parts`; the number of parts.
  std::size_t place(std::uint64_t bytes, std::span<iovec> parts) const noexcept {
    std::size_t count = 0;
    std::uint64_t inside = _inside;
    const auto& regions = _stripe.pull().job().local->regions;
    for (std::size_t i = _run; bytes > 0 && count < parts.size(); ++i, inside = 0) {
      const Run run = _stripe.run(i);
      const std::uint64_t length = std::min(bytes, run.length - inside);
      parts[count++] = {regions[run.local_region].address + run.local_offset + inside, length};
      bytes -= length;
    }
    return count;
  }

  // They are there.
  void advance(std::uint64_t bytes) noexcept {
    _landed += bytes;
    while (bytes > 0) {
      const std::uint64_t whole = _stripe.run(_run).length;
      const std::uint64_t length = std::min(bytes, whole - _inside);
      bytes -= length;
      _inside += length;
      if (_inside < whole) continue;
      ++_run;
      _inside = 0;
    }
  }

  [[nodiscard]] bool complete() const noexcept { return _landed == _stripe.bytes(); }
  [[nodiscard]] std::uint64_t landed() const noexcept { return _landed; }

 private:
  Stripe _stripe;
  std::size_t _run = 0;
  std::uint64_t _inside = 0;
  std::uint64_t _landed = 0;
};

}  // namespace kvdirect
