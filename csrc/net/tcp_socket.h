// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/fd.h"

namespace kvdirect {

// One end of a TCP connection. IPv4 addresses are kept as IPv4-mapped IPv6 ones, so that equal hosts compare equal.
struct TcpAddress {
  std::array<std::byte, 16> host{};
  std::uint16_t port = 0;

  static TcpAddress of(const sockaddr_storage& address);
  // A numeric address; nothing is looked up. Throws Error(codec).
  static TcpAddress parse(const std::string& host, std::uint16_t port);
  [[nodiscard]] std::string text() const;
  [[nodiscard]] sockaddr_storage socket_address(socklen_t& length) const;
  [[nodiscard]] bool ipv4() const noexcept;
  bool operator==(const TcpAddress&) const = default;
};

// The address of a network device that is up: its first IPv4 one, else its first IPv6 one; "eth0/ipv6" takes only the
// latter. Throws Error(config).
[[nodiscard]] TcpAddress device_address(const std::string& listen);

// A socket that listens there (port 0: any, and is told), non-blocking. Throws Error(config).
[[nodiscard]] Fd listen_on(TcpAddress& where);
// A connected, non-blocking socket, from the host of `from` where the kernel permits. Throws Error(connect).
[[nodiscard]] Fd connect_to(const TcpAddress& where, TcpAddress from, std::chrono::steady_clock::time_point deadline);

}  // namespace kvdirect
