// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/non_copyable.h"
#include "lane.h"
#include "lanes/copy_pool.h"
#include "lease.h"
#include "planner/piece_cursor.h"
#include "pull.h"

namespace kvdirect {

// The memory of an owner on the same host, as this process gets at it. Used by several threads at once.
class HostMemory : NonCopyable {
 public:
  virtual ~HostMemory() = default;

  [[nodiscard]] virtual std::size_t slots() const noexcept = 0;
  // As in LaneRead. The lease's slot is one of slots().
  virtual void check_owner(const Pull& pull) const = 0;
  [[nodiscard]] virtual LeaseCopy words(const Pull& pull) const = 0;
  // Throws Error(peer_lost, transport).
  virtual void copy(const Pull& pull, PieceCursor chunk) const = 0;
};

// A lane whose bytes the processor copies: a small pull in the calling thread, a large one by several threads of a
// pool.
class HostCopyLane final : public Lane {
 public:
  // Opens the owner's memory, proving that it is the owner's. Throws Error(lane).
  using Open = std::function<std::shared_ptr<const HostMemory>(Clock::time_point deadline)>;
  struct Options {
    std::string name;
    Clock::duration longest_wait;   // as in LaneRead::Pace
    Clock::duration wait_per_read;  // the same
    Open open;
    std::shared_ptr<CopyPool> pool;
    bool groups = false;  // as in LaneCapabilities
    unsigned parts = 1;   // how many threads one pull may keep busy
  };
  explicit HostCopyLane(Options options) : _options(std::move(options)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return _options.name; }
  [[nodiscard]] LaneCapabilities capabilities() const noexcept override {
    return {.one_sided = true, .groups = _options.groups, .permutes = true, .carries = &host_to_host};
  }
  void prove(Clock::time_point deadline) override { _memory = _options.open(deadline); }
  void submit(std::shared_ptr<Pull> pull) override;

 private:
  Options _options;
  std::shared_ptr<const HostMemory> _memory;  // once proven
};

}  // namespace kvdirect
