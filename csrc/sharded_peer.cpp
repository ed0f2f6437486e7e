// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "sharded_peer.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "gather.h"

namespace kvdirect {

std::vector<std::size_t> ShardedPeer::read() const {
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < _shards.size(); ++i) {
    if (_shards[i].read) numbers.push_back(i);
  }
  return numbers;
}

const Peer& ShardedPeer::first() const { return *_shards[read().front()].peer; }

std::string ShardedPeer::name() const { return first().name(); }

std::uint64_t ShardedPeer::incarnation() const { return first().incarnation(); }

std::string ShardedPeer::lane() const {
  std::vector<std::string> taken;
  std::string joined;
  for (const std::size_t shard : read()) {
    const std::string lane = _shards[shard].peer->lane();
    if (std::ranges::find(taken, lane) != taken.end()) continue;
    joined += (taken.empty() ? "" : "+") + lane;
    taken.push_back(lane);
  }
  return joined;
}

std::vector<std::string> ShardedPeer::lanes() const {
  std::vector<std::string> common = first().lanes();
  for (const std::size_t shard : read()) {
    const auto here = _shards[shard].peer->lanes();
    std::erase_if(common, [&here](const std::string& lane) { return std::ranges::find(here, lane) == here.end(); });
  }
  return common;
}

std::string ShardedPeer::lane_summary() const {
  std::string text;
  for (const std::size_t shard : read()) {
    text += (text.empty() ? "shard " : "; shard ") + std::to_string(shard) + ": " + _shards[shard].peer->lane_summary();
  }
  return text;
}

bool ShardedPeer::alive() const {
  return std::ranges::all_of(_shards, [](const Shard& shard) { return !shard.peer || shard.peer->alive(); });
}

std::vector<TensorMap> ShardedPeer::maps() const {
  std::vector<TensorMap> maps;
  for (const Shard& shard : _shards) maps.push_back(shard.peer ? shard.peer->map() : TensorMap{});
  return maps;
}

std::shared_ptr<Pull> ShardedPeer::pull(const Request& request) {
  std::vector<GatherPart> wanted;
  for (const std::size_t shard : read()) {
    Peer::Request one = request.rest;
    one.lease = request.leases.at(shard);
    one.selection.remote = request.remote.at(shard);
    wanted.push_back({_shards[shard].peer.get(), shard, std::move(one)});
  }
  return gather(wanted);
}

void ShardedPeer::each(const std::function<void(Peer& peer, std::size_t shard)>& tell) const {
  std::exception_ptr failure;
  for (std::size_t i = 0; i < _shards.size(); ++i) {
    if (!_shards[i].peer) continue;
    try {
      tell(*_shards[i].peer, i);
    } catch (const Error&) {
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

void ShardedPeer::complete(const std::vector<LeaseRef>& leases, const std::vector<std::uint32_t>& readers) {
  each([&](Peer& peer, std::size_t shard) {
    if (readers.at(shard) > 0) peer.complete(leases.at(shard), readers[shard]);
  });
}

void ShardedPeer::hold(const std::vector<LeaseRef>& leases, double term, double affirm_within) {
  each([&](Peer& peer, std::size_t shard) { peer.hold(leases.at(shard), term, affirm_within); });
}

void ShardedPeer::affirm(const std::vector<LeaseRef>& leases) {
  each([&](Peer& peer, std::size_t shard) { peer.affirm(leases.at(shard)); });
}

void ShardedPeer::drop(const std::vector<LeaseRef>& leases) {
  each([&](Peer& peer, std::size_t shard) { peer.drop(leases.at(shard)); });
}

void ShardedPeer::notify(const Note& note) {
  each([&](Peer& peer, std::size_t /*shard*/) { peer.notify(note); });
}

void ShardedPeer::close() {
  each([](Peer& peer, std::size_t /*shard*/) { peer.close(); });
}

}  // namespace kvdirect
