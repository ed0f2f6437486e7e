// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/non_copyable.h"
#include "peer.h"

namespace kvdirect {

// One owner whose cache lies in several processes, its shards. Thread-safe.
class ShardedPeer : NonCopyable {
 public:
  struct Shard {
    std::shared_ptr<Peer> peer;  // null: nothing is read from it, and it is not told of ends
    bool read = false;           // a pull has a part of it
  };
  struct Request {
    std::vector<LeaseRef> leases;                 // one for each shard
    std::vector<std::vector<BlockTable>> remote;  // the same
    Peer::Request rest;                           // but for lease and remote tables
  };

  // Some shard is read.
  ShardedPeer(std::vector<Shard> shards, std::shared_ptr<const Plan> plan)
      : _shards(std::move(shards)), _plan(std::move(plan)) {}

  [[nodiscard]] std::size_t count() const noexcept { return _shards.size(); }
  [[nodiscard]] std::vector<std::size_t> read() const;
  [[nodiscard]] std::string name() const;
  [[nodiscard]] std::uint64_t incarnation() const;
  // Of each shard that is read, in order; lanes() are those that all of them have.
  [[nodiscard]] std::string lane() const;
  [[nodiscard]] std::vector<std::string> lanes() const;
  [[nodiscard]] std::string lane_summary() const;
  [[nodiscard]] bool alive() const;
  [[nodiscard]] std::vector<TensorMap> maps() const;
  [[nodiscard]] std::string plan_summary() const { return _plan->summary(); }

  // As Peer's. Nothing is started unless all of it is planned.
  std::shared_ptr<Pull> pull(const Request& request);
  // `leases`, `readers`: one for each shard.
  void complete(const std::vector<LeaseRef>& leases, const std::vector<std::uint32_t>& readers);
  void hold(const std::vector<LeaseRef>& leases, double term, double affirm_within);
  void affirm(const std::vector<LeaseRef>& leases);
  void notify(const Note& note);
  void drop(const std::vector<LeaseRef>& leases);
  void close();

 private:
  // Once for each shard that is connected, also behind one that fails; throws the first failure.
  void each(const std::function<void(Peer& peer, std::size_t shard)>& tell) const;
  [[nodiscard]] const Peer& first() const;

  const std::vector<Shard> _shards;
  const std::shared_ptr<const Plan> _plan;
};

}  // namespace kvdirect
