// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "owner.h"

#include <algorithm>
#include <fstream>
#include <thread>

#include "stamp.h"

namespace kvdirect::stress {

namespace {

constexpr std::uint64_t bytes = layout::slots * layout::slot_bytes;

// Runs what may find that the lease has ended meanwhile.
template <typename Action>
void unless_ended(Action action) {
  try {
    action();
  } catch (const Error& error) {
    if (error.code() != Errc::lease_expired) throw;
  }
}

}  // namespace

Owner::Owner(const Process& process, Dice& dice)
    : _process(process),
      _dice(dice),
      _offers(process.page.offers[process.number]),
      _memory(bytes, dice.chance(75)),
      _engine(process.settings("owner", dice)) {
  _engine.register_region(_memory.address(), bytes, MemoryKind::host);
  _engine.publish(_rows.map());
  ++_process.page.tally.engines;
  publish_descriptor();
}

void Owner::publish_descriptor() {
  const auto place = _process.descriptor(_process.number);
  auto draft = place;
  draft += ".draft";
  const Bytes descriptor = _engine.descriptor();
  std::ofstream(draft, std::ios::binary)
      .write(reinterpret_cast<const char*>(descriptor.data()), static_cast<std::streamsize>(descriptor.size()));
  std::filesystem::rename(draft, place);
}

void Owner::live(Clock::duration life) {
  const auto until = Clock::now() + life;
  std::thread meddler([this, dice = Dice(_dice.seed())]() mutable { meddle(std::move(dice)); });
  while (Clock::now() < until && !_process.page.over) {
    take_ended();
    offer();
    advance(_dice.below(layout::slots));
    std::this_thread::sleep_for(std::chrono::microseconds(_dice.below(2000)));
  }
  for (auto& epoch : _offers) epoch = 0;
  close_twice(_engine);
  _over = true;
  meddler.join();
  take_ended();
  // A closed engine touches no region, so the thread sanitizer may see these writes.
  for (std::uint64_t row = 0; row < bytes / layout::row_bytes; ++row) _memory.words()[row * layout::words] = 0;
}

void Owner::take_ended() {
  for (const LeaseEnd& end : _engine.leases()->take_ended()) {
    write(end.lease.slot, ~end.lease.epoch, 0, layout::positions);
    _offers[end.lease.slot] = 0;
    _slots[end.lease.slot] = {};
    ++_process.page.tally.ended_leases[static_cast<std::size_t>(end.reason)];
  }
}

void Owner::offer() {
  LeaseTable& leases = *_engine.leases();
  std::optional<LeaseRef> lease;
  const std::uint64_t slot = _dice.below(layout::slots);
  if (_dice.chance(50)) {
    lease = leases.reserve();
  } else if (!_slots[slot].lease) {
    lease = LeaseRef{static_cast<std::uint32_t>(slot), _dice.seed() | 1};
    leases.reserve(*lease);
  }
  if (!lease) return;
  _slots[lease->slot].lease = lease;
  // The second grant adds to the first.
  const auto table = layout::table_of(lease->slot);
  const auto middle = table.begin() + static_cast<std::ptrdiff_t>(_dice.below(table.size()));
  unless_ended([&] { leases.grant(*lease, {{table.begin(), middle}}); });
  unless_ended([&] { leases.grant(*lease, {{middle, table.end()}}); });
  _offers[lease->slot] = lease->epoch;
}

void Owner::advance(std::uint64_t slot) {
  auto& [lease, written] = _slots[slot];
  if (!lease) return;
  LeaseTable& leases = *_engine.leases();
  if (written < layout::positions) {
    const std::uint64_t stop = std::min(layout::positions, written + 1 + _dice.below(layout::positions));
    write(slot, lease->epoch, written, stop);
    written = stop;
    unless_ended([&] { leases.raise_watermark(*lease, stop); });
  }
  if (_dice.chance(30)) unless_ended([&] { leases.start_term(*lease, LeaseTable::Seconds(_dice.between(0, 0.4))); });
}

void Owner::write(std::uint64_t slot, std::uint64_t epoch, std::uint64_t start, std::uint64_t stop) {
  for (std::uint64_t page = 0; page < layout::components * layout::layers; ++page) {
    for (std::uint64_t position = start; position < stop; ++position) {
      const std::uint64_t block = layout::block_of(slot, position / layout::tokens);
      const std::uint64_t place =
          _rows.place(page / layout::layers, page % layout::layers, block, position % layout::tokens);
      write_unwatched(_memory.words() + place, stamp(epoch, position, page));
    }
  }
}

void Owner::meddle(Dice dice) {
  LeaseTable& leases = *_engine.leases();
  while (!_over) {
    const auto slot = static_cast<std::uint32_t>(dice.below(layout::slots + 1));  // the last is none of the table's
    const LeaseRef lease{slot, slot < layout::slots && !dice.chance(5) ? _offers[slot].load() : dice.seed()};
    switch (dice.below(8)) {
      case 0: static_cast<void>(dice.chance(20) && leases.revoke(lease)); break;
      case 1: static_cast<void>(leases.renew(lease, LeaseTable::Seconds(dice.between(0, 0.3)))); break;
      case 2: static_cast<void>(leases.complete(lease, static_cast<std::uint32_t>(dice.below(4)))); break;
      case 3: static_cast<void>(leases.verdict(lease, dice.below(layout::positions + 1))); break;
      case 4: static_cast<void>(leases.blocks(lease)); break;
      case 5: static_cast<void>(leases.expire(Clock::now())); break;
      case 6: static_cast<void>(_engine.counters().snapshot()); break;
      default: static_cast<void>(leases.live()); break;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(dice.below(20'000)));
  }
}

}  // namespace kvdirect::stress
