// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <utility>

#include "connection.h"
#include "lane.h"
#include "progress.h"
#include "reading.h"

namespace kvdirect {

// Asks the owner for the runs and lands what it answers. Works wherever TCP reaches, and the owner checks every byte
// against the lease.
class MessageLane final : public Lane {
 public:
  MessageLane(std::shared_ptr<Connection> connection, std::shared_ptr<Inbox> inbox, Reading& reading)
      : _connection(std::move(connection)), _inbox(std::move(inbox)), _reading(reading) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "message"; }
  [[nodiscard]] LaneCapabilities capabilities() const noexcept override;
  void prove(Clock::time_point deadline) override;
  void submit(std::shared_ptr<Pull> pull) override;

 private:
  std::shared_ptr<Connection> _connection;
  std::shared_ptr<Inbox> _inbox;
  Reading& _reading;  // touched only by commands, which run while it lives
};

}  // namespace kvdirect
