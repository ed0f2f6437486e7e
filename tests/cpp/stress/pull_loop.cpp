// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "pull_loop.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

namespace kvdirect::stress {

namespace {

// What a late write would need to show itself.
constexpr auto second_look = std::chrono::milliseconds(4);

Bytes read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}

// Whether owners and readers that come and go can cause it. Nothing here asks for anything wrong.
bool expected(Errc code) {
  switch (code) {
    case Errc::config:
    case Errc::plan:
    case Errc::codec:
    case Errc::transport:
    case Errc::corrupt: return false;
    default: return true;
  }
}

std::string text(const Error& error) { return std::string(name(error.code())) + ": " + error.what(); }

}  // namespace

PullLoop::PullLoop(const Process& process, Engine& engine, Peers& peers, Canceller& canceller, Dice dice,
                   std::uint64_t* words, unsigned thread)
    : _process(process),
      _tally(process.page.tally),
      _engine(engine),
      _peers(peers),
      _canceller(canceller),
      _dice(std::move(dice)) {
  for (unsigned i = 0; i < destinations; ++i) {
    const std::uint64_t first = (thread * destinations + i) * layout::blocks_per_slot;
    _destinations.emplace_back(words, rows(Reader::threads), first);
  }
  for (Destination& destination : _destinations) _free.push_back(&destination);
}

void PullLoop::run(const std::atomic<bool>& over) {
  // Whatever is asked for while the engine closes is refused, or ends.
  while (!over || !_engine.closed()) step();
  while (!_flights.empty()) finish();
  std::this_thread::sleep_until(Clock::now() + second_look);
  for (Destination* destination : _free) look_again(*destination);
}

void PullLoop::step() {
  const auto known = _peers.pick(_dice);
  if (!known || _dice.chance(2)) return connect();
  if (_dice.chance(1)) return close(*known);
  const auto slot = static_cast<std::uint32_t>(_dice.below(layout::slots));
  const LeaseRef lease{slot, _process.page.offers[known->owner][slot]};
  if (_dice.chance(8)) talk(*known, lease);
  if (lease.epoch != 0) {
    pull(*known, lease);
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  if (!_flights.empty() && (_free.empty() || _dice.chance(50))) finish();
}

void PullLoop::connect() {
  const auto owner = static_cast<unsigned>(_dice.below(_process.processes));
  const Bytes descriptor = read_file(_process.descriptor(owner));
  if (descriptor.empty()) return std::this_thread::sleep_for(std::chrono::milliseconds(5));  // not there yet
  std::vector<std::string> permitted;
  for (const std::string_view lane : lanes) {
    if (_dice.chance(60)) permitted.emplace_back(lane);
  }
  try {
    auto peer = _engine.connect(descriptor, permitted, {}, 3);
    for (const std::string& lane : peer->lanes()) ++_tally.connected[Tally::lane(lane)];
    ++_tally.peers;
    _peers.add({std::move(peer), owner});
  } catch (const Error& error) {
    ++_tally.failed_connects[static_cast<std::size_t>(error.code())];
    if (!expected(error.code())) Tally::fault(_tally.unexpected, "a connect failed with " + text(error));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void PullLoop::close(const Known& known) {
  _peers.forget(known.peer);
  close_twice(*known.peer);
  ++_tally.closes;
}

void PullLoop::talk(const Known& known, LeaseRef lease) {
  if (_dice.chance(20)) lease.epoch = _dice.seed();
  try {
    switch (_dice.below(4)) {
      case 0: known.peer->hold(lease, _dice.between(0.01, 0.3), _dice.between(0.01, 0.3)); break;
      case 1: known.peer->affirm(lease); break;
      case 2: known.peer->drop(lease); break;
      default: known.peer->complete(lease, static_cast<std::uint32_t>(_dice.below(5))); break;
    }
  } catch (const Error& error) {
    if (!expected(error.code())) Tally::fault(_tally.unexpected, "talk of a lease failed with " + text(error));
  }
}

Destination* PullLoop::free_destination() {
  if (_free.empty()) return nullptr;
  Destination* destination = _free.front();
  if (Clock::now() < destination->overwritten() + second_look) return nullptr;
  _free.pop_front();
  look_again(*destination);
  return destination;
}

void PullLoop::look_again(Destination& destination) {
  if (destination.unchanged()) return;
  Tally::fault(_tally.written_after_quiet, "a destination changed after its pull was quiet");
  destination.overwrite({0, layout::positions}, Clock::now());
}

void PullLoop::pull(const Known& known, LeaseRef lease) {
  Destination* destination = free_destination();
  if (destination == nullptr) return std::this_thread::sleep_for(std::chrono::microseconds(200));
  Destination::Part part{0, layout::positions};
  if (const auto size = _dice.below(4); size > 0) {
    part.start = _dice.below(layout::positions);
    part.stop = std::min(layout::positions, part.start + 1 + _dice.below(size == 1 ? layout::positions : 40));
  }
  const auto remote = layout::table_of(lease.slot);
  Peer::Request request;
  request.lease = lease;
  request.selection = {{remote}, {destination->table()}, part.start, part.stop};
  request.watermark = part.stop;
  request.timeout = _dice.between(0.001, 0.5);
  request.prove = _dice.chance(20);
  if (const auto proved = known.peer->lanes(); _dice.chance(70)) request.lane = proved[_dice.below(proved.size())];
  try {
    auto started = known.peer->pull(request);
    if (_dice.chance(25)) _canceller.cancel(started, Clock::now() + _dice.seconds(0, 400e-6));
    _flights.push_back({std::move(started), destination, part, lease.epoch, known});
  } catch (const Error& error) {
    _free.push_front(destination);
    failed_pull(error);
    _peers.forget(known.peer);
  }
}

void PullLoop::failed_pull(const Error& error) {
  ++_tally.failed_pulls[static_cast<std::size_t>(error.code())];
  if (!expected(error.code())) Tally::fault(_tally.unexpected, "a pull failed with " + text(error));
}

void PullLoop::finish() {
  const Flight flight = std::move(_flights.front());
  _flights.pop_front();
  const bool valid = settle(flight);
  if (!flight.pull->wait_quiet_until(Clock::now() + patience)) {
    Tally::fault(_tally.never_quiet, flight.pull->what() + " over " + flight.pull->job().lane + " is not quiet");
    return;  // its destination is never used again
  }
  if (!flight.destination->guarded_around(flight.part)) {
    Tally::fault(_tally.corrupt, flight.pull->what() + " wrote outside of what it was to write");
  }
  flight.destination->overwrite(flight.part, Clock::now());
  _free.push_back(flight.destination);
  if (valid && _dice.chance(30)) talk(flight.from, flight.pull->job().lease);
}

bool PullLoop::settle(const Flight& flight) {
  if (!flight.pull->wait_until(flight.pull->job().deadline + patience)) {
    Tally::fault(_tally.never_ended, flight.pull->what() + " over " + flight.pull->job().lane + " did not end");
    flight.pull->cancel();
    return false;
  }
  try {
    const PullResult result = flight.pull->result();
    ++_tally.valid[Tally::lane(result.lane)];
    if (!flight.destination->holds(flight.epoch, flight.part)) {
      Tally::fault(_tally.corrupt, flight.pull->what() + " over " + result.lane + " is valid, its bytes are not");
    }
    return true;
  } catch (const Error& error) {
    failed_pull(error);
    return false;
  }
}

}  // namespace kvdirect::stress
