// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "gather.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "pull_parts.h"

namespace kvdirect {

namespace {

// "shm+message": each once, in order.
std::string lanes_of(const std::vector<Peer::Prepared>& prepared) {
  std::vector<std::string> taken;
  std::string joined;
  for (const auto& part : prepared) {
    const std::string& lane = part.pull->job().lane;
    if (std::ranges::find(taken, lane) != taken.end()) continue;
    joined += (taken.empty() ? "" : "+") + lane;
    taken.push_back(lane);
  }
  return joined;
}

PullJob whole_of(const std::vector<Peer::Prepared>& prepared) {
  PullJob job;
  job.called = Clock::now();
  job.deadline = job.called;
  if (prepared.empty()) return job;
  const PullJob& like = prepared.front().pull->job();
  job.lease = like.lease;
  job.called = like.called;
  job.deadline = like.deadline;
  job.lane = lanes_of(prepared);
  job.peer = like.peer;
  job.local = like.local;
  return job;
}

}  // namespace

std::shared_ptr<Pull> gather(const std::vector<GatherPart>& wanted) {
  std::vector<Peer::Prepared> prepared;
  std::vector<std::shared_ptr<Pull>> parts;
  std::vector<std::size_t> shards;
  for (const GatherPart& part : wanted) {
    if (!part.peer->alive()) {
      throw Error(Errc::peer_lost, "shard " + std::to_string(part.shard) + " went away",
                  {.operation = "pull", .peer = part.peer->name()});
    }
    prepared.push_back(part.peer->prepare(part.request));
    prepared.back().pull->plan_rest();
    parts.push_back(prepared.back().pull);
    shards.push_back(part.shard);
  }
  std::uint64_t together = 0;
  for (const auto& part : prepared) together += part.data->job().bytes;
  for (const auto& part : prepared) part.data->lands_beside(together - part.data->job().bytes);
  auto whole = std::make_shared<Pull>(whole_of(prepared), nullptr);
  const auto joined = std::make_shared<PullParts>(std::move(parts), std::move(shards));
  joined->join(whole);
  for (std::size_t i = 0; i < prepared.size(); ++i) {
    try {
      wanted[i].peer->start(prepared[i]);
    } catch (const Error& error) {
      // Those that were not started, too, have ended and are quiet then.
      joined->abort(error);
      for (std::size_t later = i; later < prepared.size(); ++later) prepared[later].pull->set_quiet();
      break;
    }
  }
  if (prepared.empty()) joined->look();
  return whole;
}

}  // namespace kvdirect
