// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "canceller.h"
#include "destination.h"
#include "reader.h"

namespace kvdirect::stress {

// One thread of a reader: connects, pulls, cancels, holds and completes leases, closes peers, and checks every byte.
class PullLoop {
 public:
  static constexpr unsigned destinations = 2;
  static constexpr std::uint64_t memory_bytes = destinations * layout::slot_bytes;

  // How the memory of so many loops is laid out.
  [[nodiscard]] static layout::Rows rows(unsigned threads) {
    return {.blocks = threads * destinations * layout::blocks_per_slot, .outside = false};
  }

  PullLoop(const Process& process, Engine& engine, Peers& peers, Canceller& canceller, Dice dice, std::uint64_t* words,
           unsigned thread);

  // Until the engine is closed, which it is soon after `over`.
  void run(const std::atomic<bool>& over);

 private:
  struct Flight {
    std::shared_ptr<Pull> pull;
    Destination* destination = nullptr;
    Destination::Part part;
    std::uint64_t epoch = 0;
    Known from;
  };

  void step();
  void connect();
  void close(const Known& known);
  // What readers say about leases, true or not.
  void talk(const Known& known, LeaseRef lease);
  void pull(const Known& known, LeaseRef lease);
  [[nodiscard]] Destination* free_destination();
  // Waits for the oldest pull and looks at what it left.
  void finish();
  // Whether it ended valid.
  bool settle(const Flight& flight);
  void look_again(Destination& destination);
  void failed_pull(const Error& error);

  const Process& _process;
  Tally& _tally;
  Engine& _engine;
  Peers& _peers;
  Canceller& _canceller;
  Dice _dice;
  std::vector<Destination> _destinations;
  std::deque<Destination*> _free;  // the longest free first
  std::deque<Flight> _flights;
};

}  // namespace kvdirect::stress
