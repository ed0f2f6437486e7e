// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "sharded_peer.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "pull_parts.h"

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
  std::vector<Peer::Prepared> prepared;
  std::vector<std::shared_ptr<Pull>> parts;
  const auto numbers = read();
  for (const std::size_t shard : numbers) {
    if (!_shards[shard].peer->alive()) {
      throw Error(Errc::peer_lost, "shard " + std::to_string(shard) + " went away",
                  {.operation = "pull", .peer = _shards[shard].peer->name()});
    }
    Peer::Request one = request.rest;
    one.lease = request.leases.at(shard);
    one.selection.remote = request.remote.at(shard);
    prepared.push_back(_shards[shard].peer->prepare(one));
    prepared.back().pull->plan_rest();
    parts.push_back(prepared.back().pull);
  }
  PullJob job;
  const PullJob& like = parts.front()->job();
  job.lease = like.lease;
  job.called = like.called;
  job.deadline = like.deadline;
  job.lane = request.rest.lane.empty() ? lane() : request.rest.lane;
  job.peer = name();
  job.local = like.local;
  auto whole = std::make_shared<Pull>(std::move(job), nullptr);
  const auto joined = std::make_shared<PullParts>(std::move(parts), numbers);
  joined->join(whole);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    try {
      _shards[numbers[i]].peer->start(prepared[i]);
    } catch (const Error& error) {
      // Those that were not started, too, have ended and are quiet then.
      joined->abort(error);
      for (std::size_t later = i; later < numbers.size(); ++later) prepared[later].pull->set_quiet();
      break;
    }
  }
  return whole;
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

void ShardedPeer::close() {
  each([](Peer& peer, std::size_t /*shard*/) { peer.close(); });
}

}  // namespace kvdirect
