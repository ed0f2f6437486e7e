// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dice.h"
#include "layout.h"

namespace kvdirect::stress {

// Blocks that pulls write to, one pull at a time. Between pulls every word of them is the guard.
class Destination {
 public:
  // Positions of a lease.
  struct Part {
    std::uint64_t start = 0;
    std::uint64_t stop = 0;
  };

  // The rows lie at `words`, as `rows` has them; its own are the blocks from `first` on.
  Destination(std::uint64_t* words, layout::Rows rows, std::uint64_t first);

  [[nodiscard]] const std::vector<std::int64_t>& table() const noexcept { return _table; }
  // It holds the lease's rows of `part`.
  [[nodiscard]] bool holds(std::uint64_t epoch, Part part) const noexcept;
  // In the blocks of `part`, all that lies outside of it is the guard.
  [[nodiscard]] bool guarded_around(Part part) const noexcept;
  // Makes the blocks of `part` the guard again.
  void overwrite(Part part, Clock::time_point now) noexcept;
  // A while after overwrite(): whether nothing has changed. It may be used again then.
  [[nodiscard]] bool unchanged() const noexcept;
  [[nodiscard]] Clock::time_point overwritten() const noexcept { return _overwritten; }

 private:
  template <typename Body>
  [[nodiscard]] bool every_row(Part part, Body body) const noexcept;

  std::uint64_t* _words;
  layout::Rows _rows;
  std::uint64_t _first;
  std::vector<std::int64_t> _table;
  Part _last;
  Clock::time_point _overwritten{};
};

}  // namespace kvdirect::stress
