// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "lane.h"
#include "net/event_thread.h"
#include "session/reader.h"
#include "session/reader_connection.h"

namespace kvdirect {

// Makes the connections of one session end together.
void tie_together(const std::vector<ConnectionHandle>& connections);

// Asks the owner for the runs and lands what it answers. Works wherever TCP reaches, and the owner checks every byte
// against the lease. Large pulls are shared among the session's connections.
class MessageLane final : public Lane {
 public:
  // `connections`: the session's connections, the first of them first.
  explicit MessageLane(std::vector<ConnectionHandle> connections) : _connections(std::move(connections)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "message"; }
  [[nodiscard]] LaneCapabilities capabilities() const noexcept override;
  void prove(Clock::time_point deadline) override;
  void submit(std::shared_ptr<Pull> pull) override;

 private:
  std::vector<ConnectionHandle> _connections;
};

}  // namespace kvdirect
