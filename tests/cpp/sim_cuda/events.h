// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "context.h"
#include "registry.h"

namespace kvdirect::sim {

// Done when the work that a stream had at the last record is done; before the first, at once.
class Event {
 public:
  explicit Event(Context& context) : _context(context) {}

  [[nodiscard]] Context& context() const noexcept { return _context; }

  // The number to give back to reach().
  [[nodiscard]] std::uint64_t record() noexcept { return ++_recorded; }
  // Only of the last record counts.
  void reach(std::uint64_t number) noexcept;
  [[nodiscard]] bool done() const noexcept { return _reached >= _recorded; }
  // The last record's number, and until that is reached.
  [[nodiscard]] std::uint64_t recorded() const noexcept { return _recorded; }
  void wait(std::uint64_t number) const;

 private:
  Context& _context;
  std::atomic<std::uint64_t> _recorded = 0;
  std::atomic<std::uint64_t> _reached = 0;
};

[[nodiscard]] Registry<Event, CUevent>& events();
void count_look();
// How often it was asked whether one is done.
[[nodiscard]] std::size_t count_looks();

}  // namespace kvdirect::sim
