// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/counters.h"
#include "base/non_copyable.h"
#include "base/process_guard.h"
#include "cuda/gpu.h"
#include "lane.h"
#include "lanes/copy_pool.h"
#include "lanes/handoff_server.h"
#include "lanes/message.h"
#include "lanes/rdma_domain.h"
#include "lease.h"
#include "memory/control_page.h"
#include "memory/regions.h"
#include "net/event_thread.h"
#include "peer.h"
#include "session/owner.h"
#include "session/reader.h"
#include "session/stream_worker.h"
#include "sharded_peer.h"
#include "wire/descriptor.h"

namespace kvdirect {

struct EngineSettings {
  std::string name;
  std::string listen = "lo";                                               // network device
  std::vector<std::string> lanes{known_lanes.begin(), known_lanes.end()};  // allowed, best first
  std::string rdma_devices = "all";                                        // UCX's names
  bool rdma_staging = false;                                               // CUDA memory may go through host memory
  std::uint64_t segment_bytes = 256 * 1024;
  std::string shm_directory;  // for the unix socket of the shm lane; empty: none
  unsigned copy_threads = 2;  // for large pulls within this host
  GpuSettings gpu;
  unsigned message_streams = 1;  // connections of a session, a thread for each
  std::uint32_t lease_slots = LeaseTable::max_slots;
  double max_hold = 480;  // seconds
  Bytes admission;        // empty: random
};

// What a setting that counts something may be; of the secret, how long. Nobody else knows these numbers.
struct SettingLimit {
  std::string_view name;
  std::uint64_t least;
  std::uint64_t most;
  std::uint64_t (*of)(const EngineSettings& settings);
};
inline constexpr std::array<SettingLimit, 6> setting_limits{{
    {"segment_bytes", limits::min_segment, limits::max_segment,
     [](const EngineSettings& s) { return s.segment_bytes; }},
    {"copy_threads", 1, 64, [](const EngineSettings& s) { return std::uint64_t{s.copy_threads}; }},
    {"cuda_sms", 0, 1024, [](const EngineSettings& s) { return std::uint64_t{s.gpu.sms}; }},
    {"message_streams", 1, limits::streams, [](const EngineSettings& s) { return std::uint64_t{s.message_streams}; }},
    {"lease_slots", 1, LeaseTable::max_slots, [](const EngineSettings& s) { return std::uint64_t{s.lease_slots}; }},
    {"admission", 16, limits::admission, [](const EngineSettings& s) { return std::uint64_t{s.admission.size()}; }},
}};

// Of each lease, how many positions are final.
using Watermarks = std::vector<std::pair<LeaseRef, std::uint64_t>>;

// One process's end: its regions, what it publishes, its leases, its control thread and its peers. Thread-safe.
class Engine : NonCopyable {
 public:
  explicit Engine(EngineSettings settings);
  ~Engine();

  std::uint32_t register_region(std::uint64_t address, std::uint64_t length, MemoryKind memory);
  void publish(TensorMap map);
  [[nodiscard]] Bytes descriptor();
  // `lanes`: permitted here, best first; empty: the engine's. `require_lane`: empty or the only one acceptable.
  std::shared_ptr<Peer> connect(BytesView descriptor, const std::vector<std::string>& lanes,
                                const std::string& require_lane, double timeout);
  // To all shards of one owner that hold a part of what is read here, and to those in `idle`, who are then told of
  // leases' ends. Readers with different indices take different ones of replicas; none: any.
  std::shared_ptr<ShardedPeer> connect_shards(const std::vector<BytesView>& descriptors,
                                              const std::vector<std::string>& lanes, const std::string& require_lane,
                                              double timeout, const std::vector<std::size_t>& idle,
                                              std::optional<std::uint64_t> reader_index);

  [[nodiscard]] const std::shared_ptr<LeaseTable>& leases() const noexcept { return _leases; }
  [[nodiscard]] std::uint64_t incarnation() const noexcept { return _incarnation; }
  [[nodiscard]] const Counters& counters() const noexcept { return *_counters; }
  // What readers told this engine's program.
  [[nodiscard]] Notes& notes() const noexcept { return *_notes; }
  [[nodiscard]] bool closed() const noexcept { return _closed; }
  // Why readers cannot read this engine over a lane, as far as that is known; once it is published.
  [[nodiscard]] std::map<std::string, std::string> lane_problems() const;
  // Raises the watermarks once the GPU's `stream` has done what it was given so far; returns at once. Leases that have
  // ended by then are passed over. Throws Error(config) where the engine has no memory on a GPU.
  void raise_watermarks_after(Watermarks watermarks, std::uint64_t stream);
  // Of the GPU whose memory it has. Throws Error(config) where it has none.
  [[nodiscard]] std::uint64_t fence_stream() const;
  // Fails running pulls, joins the threads, waits for readers on this host to let our GPU's memory go, all bounded;
  // afterwards nothing here touches a region. Idempotent.
  void close();
  // Readers that have memory of our GPU mapped although the engine is closed: it must not be freed under them.
  [[nodiscard]] std::size_t readers_mapping();
  // Throws Error(closed) if the engine is closed, or this process is a fork of its owner.
  void check_open(const char* operation) const;

 private:
  [[nodiscard]] std::shared_ptr<const Published> published() const;
  struct OnGpu {
    std::shared_ptr<Gpu> gpu;        // null: no region is on one
    std::shared_ptr<CopyPool> pool;  // waits for it
  };
  [[nodiscard]] OnGpu on_gpu() const;
  [[nodiscard]] std::shared_ptr<Published> describe(TensorMap map) const;
  [[nodiscard]] std::optional<HostAccess> host_access() const;
  void open_lanes();
  [[nodiscard]] std::optional<ShmAccess> shm_access();
  [[nodiscard]] std::optional<CudaAccess> cuda_access();
  [[nodiscard]] HandoffAccess handoff_access(HandoffServer::DescriptorSource descriptor_source, bool maps);
  void share(Published& published);
  [[nodiscard]] bool allows(const std::string& lane) const;
  void start_workers(const std::shared_ptr<LeaseExtents>& extents, const std::shared_ptr<RunBudget>& budget);
  [[nodiscard]] std::unique_ptr<Lane> make_lane(const std::string& name,
                                                const std::shared_ptr<ReaderConnection>& connection,
                                                const Descriptor& owner, Clock::time_point deadline);
  // The first connection of a session, or a further one of `session`; its own when it returns.
  std::shared_ptr<ReaderConnection> reach(const Descriptor& owner, unsigned stream, const Token& session,
                                          Clock::time_point deadline);
  [[nodiscard]] ConnectionHandle handle(unsigned stream, std::shared_ptr<ReaderConnection> connection) const;
  [[nodiscard]] std::vector<ConnectionHandle> open_connections(const std::shared_ptr<ReaderConnection>& first,
                                                               const Descriptor& owner, Clock::time_point deadline);
  [[nodiscard]] std::vector<std::string> wanted_lanes(std::vector<std::string> wanted, const std::string& require_lane,
                                                      const std::string& peer) const;
  [[nodiscard]] std::shared_ptr<const Published> readable_into() const;
  void check_foreign(const Descriptor& owner) const;
  // `options`: plan, shard and local.
  std::shared_ptr<Peer> connect_to_shard(const Descriptor& owner, Peer::Options options,
                                         const std::vector<std::string>& wanted, Clock::time_point deadline);
  std::vector<std::unique_ptr<Lane>> prove_lanes(const std::shared_ptr<ReaderConnection>& connection,
                                                 const Descriptor& owner, const std::vector<std::string>& wanted,
                                                 Clock::time_point deadline);

  const EngineSettings _settings;
  const ProcessGuard _process;
  const std::uint64_t _incarnation;
  ControlPage _control_page;
  std::shared_ptr<LeaseTable> _leases;
  std::shared_ptr<Counters> _counters = std::make_shared<Counters>();
  std::shared_ptr<Notes> _notes = std::make_shared<Notes>();
  std::atomic<bool> _closed{false};
  mutable std::mutex _mutex;
  std::mutex _publishing;
  std::mutex _closing;
  bool _joined = false;
  std::vector<Region> _regions;
  std::shared_ptr<const Published> _published;
  std::vector<std::weak_ptr<Peer>> _peers;
  TcpAddress _address;
  std::unique_ptr<OwnerSessions> _owner;
  std::unique_ptr<ReaderSessions> _reader;
  std::shared_ptr<CopyPool> _pool;
  std::shared_ptr<RdmaDomain> _rdma;  // null where there is no RDMA, and
  std::string _why_no_rdma;
  std::unique_ptr<HandoffServer> _handoff;  // null where no lane that needs it is permitted, or it cannot work, and
  std::string _why_no_handoff;
  std::map<std::string, std::string> _problems;  // by lane
  OnGpu _on_gpu;
  std::vector<std::unique_ptr<StreamWorker>> _workers;  // of streams 1, 2, ...
  std::unique_ptr<EventThread> _event_thread;
};

}  // namespace kvdirect
