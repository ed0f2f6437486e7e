// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <optional>

#include "memory.h"
#include "process.h"

namespace kvdirect::stress {

// An engine that offers leases, one after the other in each slot, until it is closed. It writes a lease's rows piece by
// piece below a watermark that rises, and overwrites them the moment the lease has ended.
class Owner {
 public:
  Owner(const Process& process, Dice& dice);

  void live(Clock::duration life);

 private:
  struct Slot {
    std::optional<LeaseRef> lease;
    std::uint64_t written = 0;  // positions
  };
  using Offers = std::array<std::atomic<std::uint64_t>, layout::slots>;

  void publish_descriptor();
  void take_ended();
  void offer();
  void advance(std::uint64_t slot);
  void write(std::uint64_t slot, std::uint64_t epoch, std::uint64_t start, std::uint64_t stop);
  // On a thread of its own: what readers and schedulers do to leases, at any time.
  void meddle(Dice dice);

  const Process& _process;
  Dice& _dice;
  Offers& _offers;
  const layout::Rows _rows{.blocks = layout::slots * layout::blocks_per_slot, .outside = true};
  Memory _memory;
  Engine _engine;
  std::array<Slot, layout::slots> _slots;
  std::atomic<bool> _over{false};
};

}  // namespace kvdirect::stress
