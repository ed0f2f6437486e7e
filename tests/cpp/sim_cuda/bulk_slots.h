// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "call.h"
#include "cuda/bulk_slots.h"

namespace kvdirect {

// What stands in for a multiprocessor that moves bytes in bulk: as late as it may. A load lands when it is awaited, and
// a store reads its slot when that is. What the hardware does not define ends the process.
class BulkSlots {
 public:
  explicit BulkSlots(unsigned /*warp*/) {}

  void open() { _share = std::make_unique<BulkShare>(); }
  BulkPiece& piece(unsigned slot) const { return _share->pieces[slot]; }

  void expect(unsigned slot, unsigned bytes) {
    Barrier& barrier = barrier_of(slot);
    if (!_share) sim::undefined("a barrier is used that was not made");
    if (barrier.expected > 0) sim::undefined("a slot is to be loaded again before its load was awaited");
    if (!_stores.empty()) sim::undefined("a slot is to be loaded while stores may still read it");
    if (bytes == 0) sim::undefined("a slot is to be loaded with nothing");
    barrier.expected = bytes;
  }

  void load(unsigned slot, unsigned at, unsigned long long source, unsigned bytes) {
    check(slot, at, source, bytes);
    barrier_of(slot).loads.push_back({at, source, bytes});
  }

  void await_load(unsigned slot, unsigned odd) {
    Barrier& barrier = barrier_of(slot);
    if (odd != barrier.odd) sim::undefined("the wrong phase of a barrier is awaited");
    unsigned loaded = 0;
    for (const Move& load : barrier.loads) {
      std::memcpy(_share->slots[slot] + load.at, reinterpret_cast<const void*>(load.address), load.bytes);
      loaded += load.bytes;
    }
    if (loaded == 0 || loaded != barrier.expected) {
      sim::undefined("a barrier expects " + std::to_string(barrier.expected) + " bytes and gets " +
                     std::to_string(loaded));
    }
    barrier = {.odd = 1 - odd, .expected = 0, .loads = {}};
  }

  void store(unsigned slot, unsigned at, unsigned long long target, unsigned bytes) {
    check(slot, at, target, bytes);
    _stores.push_back({_share->slots[slot] + at, target, bytes});
  }

  void await_reads() {
    for (const Store& store : _stores) std::memcpy(reinterpret_cast<void*>(store.address), store.from, store.bytes);
    _stores.clear();
  }
  void await_stores() { await_reads(); }

  ~BulkSlots() {
    const auto loading = [](const Barrier& barrier) { return barrier.expected > 0; };
    if (std::ranges::any_of(_barriers, loading) || !_stores.empty()) {
      sim::undefined("the kernel ends before what it has asked for is done");
    }
  }
  BulkSlots(const BulkSlots&) = delete;
  BulkSlots& operator=(const BulkSlots&) = delete;

 private:
  struct Move {
    unsigned at;
    unsigned long long address;
    unsigned bytes;
  };
  struct Store {
    const unsigned char* from;
    unsigned long long address;
    unsigned bytes;
  };
  struct Barrier {
    unsigned odd = 0;  // whether the phase that is on is
    unsigned expected = 0;
    std::vector<Move> loads;
  };

  static void check(unsigned slot, unsigned at, unsigned long long address, unsigned bytes) {
    if (slot >= bulk_slots || at > bulk_slot_bytes || bytes > bulk_slot_bytes - at) {
      sim::undefined("bytes beside a slot are to be moved");
    }
    if (at % 16 != 0 || bytes == 0 || bytes % 16 != 0 || address % 16 != 0) {
      sim::undefined("what is moved in bulk is no multiple of 16 bytes");
    }
  }
  Barrier& barrier_of(unsigned slot) {
    if (slot >= bulk_slots) sim::undefined("there is no such slot");
    return _barriers[slot];
  }

  std::unique_ptr<BulkShare> _share;
  std::array<Barrier, bulk_slots> _barriers;
  std::vector<Store> _stores;
};

}  // namespace kvdirect
