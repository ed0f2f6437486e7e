// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tcp_socket.h"
#include "ucx.h"

// UCX's tcp transport has a PUT message of its own, below everything UCP can switch off: whoever can connect to a
// worker's port can write to any address of the process. So nobody's bytes reach UCX before they were vouched for: a
// socket filter on the worker's listening socket lets connections through and drops every segment that carries data.
// Connections inherit it, and it is taken off one by one (Gate).
namespace kvdirect {

// Makes a worker whose listening socket has had the filter since before anyone could use it; `where` gets the socket's
// address. Throws Error(transport) where that cannot be made sure.
[[nodiscard]] std::shared_ptr<ucx::Worker> shielded_worker(
    const std::function<std::shared_ptr<ucx::Worker>()>& make_worker, TcpAddress& where);

// Lets data through on the connection from `remote` to our `local` port. False while there is no such connection yet.
[[nodiscard]] bool unshield(std::uint16_t local_port, const TcpAddress& remote);

// Ends connections that stay behind a shield, and the oldest where they are many: strangers, and readers that gave up
// before they were vouched for.
class ShieldSweeper {
 public:
  using Clock = std::chrono::steady_clock;

  explicit ShieldSweeper(std::vector<std::uint16_t> ports) : _ports(std::move(ports)) {}
  // False when a worker no longer listens: UCX gives its socket up when the process has no descriptors left.
  bool sweep(Clock::time_point now);

 private:
  using Key = std::pair<std::uint16_t, std::string>;  // our port, and who is there

  std::vector<std::uint16_t> _ports;
  std::map<Key, Clock::time_point> _since;
};

}  // namespace kvdirect
