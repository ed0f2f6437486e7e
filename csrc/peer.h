// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/non_copyable.h"
#include "base/process_guard.h"
#include "cuda/gpu.h"
#include "lane.h"
#include "lanes/copy_pool.h"
#include "net/event_thread.h"
#include "planner/plan.h"
#include "session/reader.h"
#include "session/reader_connection.h"

namespace kvdirect {

// One owner that this engine reads from. Thread-safe. Works as long as its engine is open; does not keep it alive.
class Peer : NonCopyable {
 public:
  struct Options {
    std::string name;
    TensorMap map;
    std::shared_ptr<const Plan> plan;
    std::size_t shard = 0;  // the plan's
    ConnectionHandle session;
    std::vector<std::unique_ptr<Lane>> lanes;  // proved, best first; never empty
    std::shared_ptr<const Published> local;
    std::shared_ptr<Gpu> gpu;  // null: no memory on one
    std::shared_ptr<Counters> counters;
    std::shared_ptr<CopyPool> pool;  // makes digests
  };
  struct Request {
    LeaseRef lease;
    Selection selection;
    std::uint64_t watermark = 0;
    double timeout = 0;                   // seconds
    std::string lane;                     // empty: the best
    std::optional<std::uint64_t> stream;  // the destination is free once this CUstream has done what it was given
    bool prove = false;                   // valid only with the owner's digest
  };

  explicit Peer(Options options);
  ~Peer();

  [[nodiscard]] const std::string& name() const noexcept { return _options.name; }
  [[nodiscard]] std::uint64_t incarnation() const noexcept { return _options.session.connection->incarnation; }
  [[nodiscard]] std::string lane() const { return std::string(_options.lanes.front()->name()); }
  [[nodiscard]] std::vector<std::string> lanes() const;
  // Of the best: "cuda_ipc, over NVLink (performance rank 0)".
  [[nodiscard]] std::string lane_summary() const;
  [[nodiscard]] bool alive() const noexcept { return _options.session.connection->alive; }
  [[nodiscard]] const TensorMap& map() const noexcept { return _options.map; }
  [[nodiscard]] std::string plan_summary() const { return _options.plan->summary(); }

  // Throws for bad arguments, a lane that did not prove itself, a peer that is gone or closed.
  std::shared_ptr<Pull> pull(const Request& request);
  // The two halves of it, for who starts several together.
  struct Prepared {
    Lane* lane = nullptr;
    std::shared_ptr<Pull> pull;
    std::shared_ptr<Pull> data;  // what the lane is given: the pull, or the part of it that moves the bytes
  };
  [[nodiscard]] Prepared prepare(const Request& request);
  void start(const Prepared& prepared);
  void complete(LeaseRef lease, std::uint32_t readers);
  void hold(LeaseRef lease, double term, double affirm_within);
  void affirm(LeaseRef lease);
  // For the owner's program. Throws Error(config) where it is too long.
  void notify(Note note);
  void drop(LeaseRef lease);
  // Fails running pulls with `why` and returns when they are quiet, or after a bound. Idempotent.
  void close(const Error& why);
  void close();

 private:
  template <class Method, class... Arguments>
  void tell(const char* operation, Method method, Arguments... arguments);
  [[nodiscard]] Error closed(const std::string& operation) const;
  [[nodiscard]] std::shared_ptr<const DeviceEvent> record_event(std::uint64_t stream) const;

  [[nodiscard]] PullJob job_for(const Request& request, const Lane& lane, Clock::time_point called) const;
  [[nodiscard]] Prepared proven(const Request& request, Lane& lane, std::shared_ptr<Pull> data) const;

  Options _options;
  std::shared_ptr<Lane> _session;  // what is asked for over it moves no bytes
  ProcessGuard _process;
  std::mutex _mutex;
  bool _closed = false;
  std::vector<std::weak_ptr<Pull>> _pulls;
};

}  // namespace kvdirect
