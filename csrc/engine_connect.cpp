// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <future>
#include <utility>

#include "base/seconds.h"
#include "engine.h"
#include "lanes/cma.h"
#include "lanes/cuda_ipc.h"
#include "lanes/rdma.h"
#include "lanes/shm.h"

namespace kvdirect {

namespace {

// Between two looks at a watermark that is too low: a load, or a system call.
constexpr auto shm_wait = std::chrono::milliseconds(1);
constexpr auto shm_wait_per_read = std::chrono::microseconds(80);
constexpr auto cma_wait = std::chrono::milliseconds(4);
constexpr auto cma_wait_per_read = std::chrono::microseconds(200);

const char* memory_name(MemoryKind kind) noexcept { return kind == MemoryKind::host ? "host memory" : "a GPU"; }

// Why a lane cannot carry what the maps hold; empty where it can.
std::string why_not_carried(const Lane& lane, const TensorMap& remote, const TensorMap& local) {
  for (const Component& wanted : local.components) {
    for (const Component& offered : remote.components) {
      if (offered.name != wanted.name || lane.capabilities().carries(offered.memory, wanted.memory)) continue;
      return std::string(lane.name()) + " does not carry component " + wanted.name + " from " +
             memory_name(offered.memory) + " to " + memory_name(wanted.memory) + ": " + lane.limits();
    }
  }
  return {};
}

std::vector<std::uint32_t> wanted_regions(const TensorMap& remote, const TensorMap& local) {
  std::vector<std::uint32_t> regions;
  for (const Component& offered : remote.components) {
    const auto same = [&offered](const Component& one) { return one.name == offered.name; };
    if (std::ranges::any_of(local.components, same)) regions.push_back(offered.region);
  }
  return regions;
}

}  // namespace

ConnectionHandle Engine::handle(unsigned stream, std::shared_ptr<ReaderConnection> connection) const {
  if (stream == 0) return {std::move(connection), _event_thread->commands(), _reader.get()};
  const StreamWorker& worker = *_workers[stream - 1];
  return {std::move(connection), worker.commands(), worker.reader()};
}

std::shared_ptr<ReaderConnection> Engine::reach(const Descriptor& owner, unsigned stream, const Token& session,
                                                Clock::time_point deadline) {
  auto connection = std::make_shared<ReaderConnection>();
  connection->peer = owner.name.empty() ? std::to_string(owner.incarnation) : owner.name;
  connection->incarnation = owner.incarnation;
  connection->stream_number = stream;
  connection->session = session;
  connection->hello_deadline = deadline;
  connection->welcomed.emplace();
  auto welcomed = connection->welcomed->get_future();
  const ConnectionHandle own = handle(stream, connection);
  // Shared, because a command must be copyable.
  const auto fd = std::make_shared<Fd>(connect_to(TcpAddress::parse(owner.host, owner.port), _address, deadline));
  const bool posted =
      own.commands->post([own, owner, fd] { own.reader->open(*own.connection, owner, std::move(*fd)); });
  if (!posted) {
    check_open("connect");
    throw Error(Errc::closed, "the engine is closed", {.operation = "connect"});
  }
  try {
    // The control thread keeps the deadline; the grace is for a thread that is stuck.
    if (welcomed.wait_until(deadline + std::chrono::seconds(5)) != std::future_status::ready) {
      throw Error(Errc::transport, "the control thread does not answer",
                  {.operation = "connect", .peer = connection->peer});
    }
    welcomed.get();
  } catch (const Error& error) {
    own.post(&ReaderSessions::leave, error);
    throw;
  }
  return connection;
}

std::vector<ConnectionHandle> Engine::open_connections(const std::shared_ptr<ReaderConnection>& first,
                                                       const Descriptor& owner, Clock::time_point deadline) {
  const unsigned count = std::min(_settings.message_streams, first->welcome.streams);
  std::vector<ConnectionHandle> connections{handle(0, first)};
  for (unsigned stream = 1; stream < count; ++stream) {
    // What cannot be had soon is done without: it is only faster, and other lanes need the rest of the time.
    const auto now = Clock::now();
    try {
      connections.push_back(handle(stream, reach(owner, stream, first->welcome.nonce, now + (deadline - now) / 4)));
    } catch (const Error&) {
      break;
    }
  }
  tie_together(connections);
  return connections;
}

std::unique_ptr<Lane> Engine::make_lane(const std::string& name, const std::shared_ptr<ReaderConnection>& connection,
                                        const Descriptor& owner, Clock::time_point deadline) {
  const std::size_t regions = owner.region_bytes.size();
  if (name == "cuda_ipc") {
    const auto [gpu, pool] = on_gpu();
    return std::make_unique<CudaIpcLane>(
        CudaIpcLane::Options{connection, owner.region_bytes, wanted_regions(owner.map, published()->map), published()},
        gpu, pool);
  }
  if (name == "shm") {
    const auto open = [connection, bytes = owner.region_bytes](Clock::time_point by) {
      return map_owner(connection, bytes, by);
    };
    return std::make_unique<HostCopyLane>(
        HostCopyLane::Options{name, shm_wait, shm_wait_per_read, open, _pool, true, _settings.copy_threads});
  }
  if (name == "cma") {
    const auto open = [connection, regions](Clock::time_point /*by*/) { return open_process(*connection, regions); };
    return std::make_unique<HostCopyLane>(
        HostCopyLane::Options{name, cma_wait, cma_wait_per_read, open, _pool, false, _settings.copy_threads});
  }
  if (name == "rdma") {
    if (!_why_no_rdma.empty()) throw Error(Errc::lane, _why_no_rdma);
    return std::make_unique<RdmaLane>(
        RdmaLane::Options{connection, regions, wanted_regions(owner.map, published()->map)}, _rdma);
  }
  return std::make_unique<MessageLane>(open_connections(connection, owner, deadline));
}

std::vector<std::unique_ptr<Lane>> Engine::prove_lanes(const std::shared_ptr<ReaderConnection>& connection,
                                                       const Descriptor& owner, const std::vector<std::string>& wanted,
                                                       Clock::time_point deadline) {
  std::vector<std::unique_ptr<Lane>> proved;
  std::string reasons;
  for (const std::string& name : wanted) {
    std::string why;
    try {
      auto lane = make_lane(name, connection, owner, deadline);
      why = why_not_carried(*lane, owner.map, published()->map);
      if (why.empty()) {
        lane->prove(deadline);
        proved.push_back(std::move(lane));
        continue;
      }
    } catch (const Error& error) {
      why = lane_error(name, error.what()).what();
    }
    reasons += (reasons.empty() ? "" : "; ") + why;
  }
  if (!proved.empty()) return proved;
  throw Error(Errc::lane, "no permitted lane works: " + reasons,
              {.operation = "connect", .peer = connection->peer, .hint = "permit another lane, or mend what is named"});
}

std::vector<std::string> Engine::wanted_lanes(std::vector<std::string> wanted, const std::string& require_lane,
                                              const std::string& peer) const {
  const auto refuse = [&](const std::string& message) {
    return Error(Errc::lane, message, {.operation = "connect", .peer = peer});
  };
  if (wanted.empty()) wanted = _settings.lanes;
  std::erase_if(wanted, [this](const std::string& lane) { return !allows(lane); });
  if (!require_lane.empty()) {
    const bool permitted = std::ranges::find(wanted, require_lane) != wanted.end();
    if (!permitted) throw refuse("the required lane " + require_lane + " is not permitted here");
    wanted = {require_lane};
  }
  if (wanted.empty()) throw refuse("no lane is permitted both here and by the engine's settings");
  return wanted;
}

std::shared_ptr<const Published> Engine::readable_into() const {
  check_open("connect");
  auto local = published();
  if (local) return local;
  throw Error(Errc::config, "this engine has no map to read into", {.operation = "connect", .hint = "publish() first"});
}

std::shared_ptr<Peer> Engine::connect(BytesView descriptor, const std::vector<std::string>& lanes,
                                      const std::string& require_lane, double timeout) {
  const auto deadline = Clock::now() + bounded(timeout);
  const auto local = readable_into();
  const Descriptor owner = Descriptor::decode(descriptor);
  check_foreign(owner);
  const auto wanted = wanted_lanes(lanes, require_lane, owner.name);
  Peer::Options options;
  options.plan = std::make_shared<const Plan>(local->map, std::span(&owner.map, 1), _incarnation);
  options.local = local;
  return connect_to_shard(owner, std::move(options), wanted, deadline);
}

std::shared_ptr<ShardedPeer> Engine::connect_shards(const std::vector<BytesView>& descriptors,
                                                    const std::vector<std::string>& lanes,
                                                    const std::string& require_lane, double timeout,
                                                    const std::vector<std::size_t>& idle,
                                                    std::optional<std::uint64_t> reader_index) {
  const auto deadline = Clock::now() + bounded(timeout);
  const auto local = readable_into();
  if (local->map.components.empty()) {
    throw Error(Errc::config, "this engine's map is empty: there is nothing to read from any shard",
                {.operation = "connect", .hint = "publish() what is to be read into"});
  }
  std::vector<Descriptor> owners;
  std::vector<TensorMap> maps;
  for (const BytesView descriptor : descriptors) {
    const Descriptor& owner = owners.emplace_back(Descriptor::decode(descriptor));
    check_foreign(owner);
    const auto same = [&owner](const Descriptor& other) { return other.incarnation == owner.incarnation; };
    if (std::ranges::count_if(owners, same) > 1) {
      throw Error(Errc::config, "the descriptor of shard " + std::to_string(owners.size() - 1) + " is there twice",
                  {.operation = "connect", .peer = owner.name, .hint = "give each shard's once"});
    }
    maps.push_back(owner.map);
  }
  const auto plan = std::make_shared<const Plan>(local->map, maps, reader_index.value_or(_incarnation));
  const auto wanted = wanted_lanes(lanes, require_lane, owners.front().name);
  std::vector<ShardedPeer::Shard> shards;
  for (std::size_t i = 0; i < owners.size(); ++i) {
    ShardedPeer::Shard& shard = shards.emplace_back();
    shard.read = plan->reads(i);
    if (!shard.read && std::ranges::find(idle, i) == idle.end()) continue;
    Peer::Options options;
    options.plan = plan;
    options.shard = i;
    options.local = local;
    shard.peer = connect_to_shard(owners[i], std::move(options), wanted, deadline);
  }
  return std::make_shared<ShardedPeer>(std::move(shards), plan);
}

void Engine::check_foreign(const Descriptor& owner) const {
  if (owner.incarnation != _incarnation) return;
  throw Error(Errc::config, "this is the engine's own descriptor", {.operation = "connect", .peer = owner.name});
}

std::shared_ptr<Peer> Engine::connect_to_shard(const Descriptor& owner, Peer::Options options,
                                               const std::vector<std::string>& wanted, Clock::time_point deadline) {
  const auto connection = reach(owner, 0, {}, deadline);
  try {
    options.lanes = prove_lanes(connection, owner, wanted, deadline);
    check_open("connect");
  } catch (const Error& error) {
    handle(0, connection).post(&ReaderSessions::leave, error);
    throw;
  }
  options.name = connection->peer;
  options.map = owner.map;
  options.session = handle(0, connection);
  options.gpu = on_gpu().gpu;
  options.counters = _counters;
  options.pool = _pool;
  auto peer = std::make_shared<Peer>(std::move(options));
  const std::lock_guard lock(_mutex);
  // close() took the list: nobody would end this peer's pulls.
  if (_closed) throw Error(Errc::closed, "the engine was closed", {.operation = "connect", .peer = owner.name});
  std::erase_if(_peers, [](const auto& weak) { return weak.expired(); });
  _peers.push_back(peer);
  ++_counters->peers;
  return peer;
}

}  // namespace kvdirect
