// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "reader.h"

#include <atomic>
#include <thread>

#include "canceller.h"
#include "pull_loop.h"

namespace kvdirect::stress {

namespace {
constexpr std::uint64_t bytes = Reader::threads * PullLoop::memory_bytes;
}

void Peers::add(Known known) {
  const std::lock_guard lock(_mutex);
  _known.push_back(std::move(known));
}

std::optional<Known> Peers::pick(Dice& dice) const {
  const std::lock_guard lock(_mutex);
  if (_known.empty()) return std::nullopt;
  return _known[dice.below(_known.size())];
}

void Peers::forget(const std::shared_ptr<Peer>& peer) {
  const std::lock_guard lock(_mutex);
  std::erase_if(_known, [&](const Known& known) { return known.peer == peer; });
}

void Peers::clear() {
  std::vector<Known> gone;
  const std::lock_guard lock(_mutex);
  gone.swap(_known);
}

Reader::Reader(const Process& process, Dice& dice)
    : _process(process),
      _dice(dice),
      _memory(bytes, dice.chance(25)),
      _engine(std::make_unique<Engine>(process.settings("reader", dice))) {
  _engine->register_region(_memory.address(), bytes, MemoryKind::host);
  _engine->publish(PullLoop::rows(threads).map());
  ++_process.page.tally.engines;
}

void Reader::live(Clock::duration life) {
  const auto until = Clock::now() + life;
  Canceller canceller;
  std::atomic<bool> over{false};
  std::vector<std::thread> loops;
  for (unsigned thread = 0; thread < threads; ++thread) {
    loops.emplace_back([&, thread, dice = Dice(_dice.seed())]() mutable {
      PullLoop(_process, *_engine, _peers, canceller, std::move(dice), _memory.words(), thread).run(over);
    });
  }
  while (Clock::now() < until && !_process.page.over) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  over = true;
  close_twice(*_engine);
  for (std::thread& loop : loops) loop.join();
  if (_dice.chance(50)) _peers.clear();
  _engine.reset();
}

}  // namespace kvdirect::stress
