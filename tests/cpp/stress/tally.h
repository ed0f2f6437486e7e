// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "lease.h"

namespace kvdirect::stress {

inline constexpr std::array<std::string_view, 3> lanes{"shm", "cma", "message"};

// What happened in all processes so far. It lies in memory that they share, so that a killed one's counts stay.
struct Tally {
  using Count = std::atomic<std::uint64_t>;
  static constexpr std::size_t codes = static_cast<std::size_t>(Errc::closed) + 1;
  static constexpr std::size_t reasons = static_cast<std::size_t>(LeaseEndReason::max_hold) + 1;

  Count engines{0}, peers{0}, closes{0}, kills{0};
  std::array<Count, lanes.size()> connected{}, valid{};  // peers that proved the lane; valid pulls
  std::array<Count, codes> failed_connects{}, failed_pulls{};
  std::array<Count, reasons> ended_leases{};
  // Faults.
  Count corrupt{0};  // a valid pull with bytes that are not the lease's, or a byte outside what was asked for
  Count written_after_quiet{0};  // a destination that changed after its pull was quiet
  Count never_quiet{0};
  Count never_ended{0};
  Count unexpected{0};  // errors that nothing here can cause, processes that ended by themselves or would not end

  // Counts a fault and says what it was.
  static void fault(Count& count, const std::string& what);
  [[nodiscard]] static std::size_t lane(std::string_view name);

  // Prints everything; true if there was no fault, and valid pulls over every lane that a peer proved.
  [[nodiscard]] bool report() const;
};

}  // namespace kvdirect::stress
