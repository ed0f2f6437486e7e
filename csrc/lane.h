// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/non_copyable.h"
#include "planner/tensor_map.h"
#include "pull.h"

namespace kvdirect {

// Best first.
inline constexpr std::array<std::string_view, 5> known_lanes{"cuda_ipc", "shm", "cma", "rdma", "message"};

// What a lane can do is asked, never assumed.
struct LaneCapabilities {
  bool one_sided = false;  // reads without the owner's processor, and beyond what the owner leased
  bool runs = true;        // takes a pull's runs, in the owner's order and joined
  bool groups = false;     // takes its groups of runs, which cost less to plan where there are many blocks
  bool permutes = false;   // where a plan permutes: takes groups, and small pieces cost it little
  bool (*carries)(MemoryKind remote, MemoryKind local) = nullptr;
};

// For lanes that move bytes from host memory to host memory.
[[nodiscard]] inline bool host_to_host(MemoryKind remote, MemoryKind local) noexcept {
  return remote == MemoryKind::host && local == MemoryKind::host;
}

// One way for bytes to move from one owner to this engine.
class Lane : NonCopyable {
 public:
  virtual ~Lane() = default;

  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  [[nodiscard]] virtual LaneCapabilities capabilities() const noexcept = 0;

  // What capabilities().carries says no to, for people.
  [[nodiscard]] virtual std::string limits() const { return "it moves between host memories only"; }

  // What lies on the way, where it is worth telling people; once proven.
  [[nodiscard]] virtual std::string way() const { return {}; }

  // Reads a fresh nonce of the owner the way pulls will read. Throws an Error that says why it does not work; whoever
  // asked names the lane.
  virtual void prove(Clock::time_point deadline) = 0;

  // Starts a pull and returns at once, except that a small one may be done here, in the calling thread. The lane ends
  // the pull (valid only if the lease held after the last byte landed), keeps to its deadline, stops soon after it
  // was ended by someone else, and says when it is quiet. Groups that are not planned yet are planned here; throws
  // Error(plan), once it is quiet, where that cannot be.
  virtual void submit(std::shared_ptr<Pull> pull) = 0;
};

}  // namespace kvdirect
