// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fd.h"

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

// A TCP socket of this process, whoever opened it. The descriptor is not owned, and may be closed or even reused by
// its owner at any moment.
struct OwnSocket {
  int fd = -1;
  bool listening = false;
  TcpAddress local;
  TcpAddress remote;  // port 0 when there is none yet
};

[[nodiscard]] std::vector<OwnSocket> own_tcp_sockets();
// The same for one descriptor; false if it is no TCP socket.
[[nodiscard]] bool describe(int fd, OwnSocket& socket);

// While on, the kernel sends again at most a second later what was not acknowledged, instead of after ever longer
// pauses (older kernels: it tries a little); off, it goes back to the usual. Best effort.
void retransmit_soon(int fd, bool on) noexcept;

// A socket that listens on this host (port 0: any), non-blocking. Throws Error(config).
[[nodiscard]] Fd listen_on(TcpAddress where);
// A connected, non-blocking socket, from the host of `from` where the kernel permits. Throws Error(connect).
[[nodiscard]] Fd connect_to(const TcpAddress& where, TcpAddress from, std::chrono::steady_clock::time_point deadline);

}  // namespace kvdirect
