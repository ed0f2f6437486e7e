// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "memory.h"
#include "process.h"

namespace kvdirect::stress {

// An owner that a reader is connected to.
struct Known {
  std::shared_ptr<Peer> peer;
  unsigned owner = 0;
};

// The peers that a reader's threads share.
class Peers {
 public:
  void add(Known known);
  [[nodiscard]] std::optional<Known> pick(Dice& dice) const;
  void forget(const std::shared_ptr<Peer>& peer);
  void clear();

 private:
  mutable std::mutex _mutex;
  std::vector<Known> _known;
};

// An engine whose threads connect to owners, pull from them and part from them, until it is closed under their hands.
class Reader {
 public:
  static constexpr unsigned threads = 3;

  Reader(const Process& process, Dice& dice);

  void live(Clock::duration life);

 private:
  const Process& _process;
  Dice& _dice;
  Memory _memory;
  Peers _peers;  // sometimes these outlive their engine
  std::unique_ptr<Engine> _engine;
};

}  // namespace kvdirect::stress
