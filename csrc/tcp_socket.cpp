// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "tcp_socket.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>

#include "error.h"

namespace kvdirect {

namespace {

constexpr std::array<std::byte, 12> mapped_prefix{std::byte{0}, std::byte{0}, std::byte{0},    std::byte{0},
                                                  std::byte{0}, std::byte{0}, std::byte{0},    std::byte{0},
                                                  std::byte{0}, std::byte{0}, std::byte{0xff}, std::byte{0xff}};

int option(int fd, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  return getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

}  // namespace

TcpAddress TcpAddress::of(const sockaddr_storage& address) {
  TcpAddress result;
  if (address.ss_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &address, sizeof v4);
    std::ranges::copy(mapped_prefix, result.host.begin());
    std::memcpy(result.host.data() + mapped_prefix.size(), &v4.sin_addr, sizeof v4.sin_addr);
    result.port = ntohs(v4.sin_port);
  } else if (address.ss_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &address, sizeof v6);
    std::memcpy(result.host.data(), &v6.sin6_addr, result.host.size());
    result.port = ntohs(v6.sin6_port);
  }
  return result;
}

bool TcpAddress::ipv4() const noexcept { return std::ranges::equal(mapped_prefix, std::span(host).first<12>()); }

sockaddr_storage TcpAddress::socket_address(socklen_t& length) const {
  sockaddr_storage storage{};
  if (ipv4()) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    std::memcpy(&v4.sin_addr, host.data() + mapped_prefix.size(), sizeof v4.sin_addr);
    std::memcpy(&storage, &v4, sizeof v4);
    length = sizeof v4;
  } else {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    std::memcpy(&v6.sin6_addr, host.data(), host.size());
    std::memcpy(&storage, &v6, sizeof v6);
    length = sizeof v6;
  }
  return storage;
}

std::string TcpAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> buffer{};
  if (ipv4()) {
    inet_ntop(AF_INET, host.data() + mapped_prefix.size(), buffer.data(), buffer.size());
  } else {
    inet_ntop(AF_INET6, host.data(), buffer.data(), buffer.size());
  }
  return buffer.data();
}

TcpAddress TcpAddress::parse(const std::string& host, std::uint16_t port) {
  TcpAddress result;
  result.port = port;
  std::ranges::copy(mapped_prefix, result.host.begin());
  if (inet_pton(AF_INET, host.c_str(), result.host.data() + mapped_prefix.size()) == 1) return result;
  if (inet_pton(AF_INET6, host.c_str(), result.host.data()) == 1) return result;
  throw Error(Errc::codec, "'" + host + "' is no numeric IP address");
}

bool describe(int fd, OwnSocket& socket) {
  if (option(fd, SO_PROTOCOL) != IPPROTO_TCP) return false;
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return false;
  socket.fd = fd;
  socket.local = TcpAddress::of(address);
  socket.listening = option(fd, SO_ACCEPTCONN) == 1;
  address = {};
  length = sizeof address;
  const bool connected = getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  socket.remote = connected ? TcpAddress::of(address) : TcpAddress{};
  return true;
}

std::vector<OwnSocket> own_tcp_sockets() {
  std::vector<OwnSocket> found;
  const auto close_folder = [](DIR* folder) { closedir(folder); };
  const std::unique_ptr<DIR, decltype(close_folder)> folder(opendir("/proc/self/fd"));
  if (!folder && errno == EMFILE) {
    // No descriptor left to list descriptors with, which is when they most need to be looked at.
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    OwnSocket socket;
    for (int fd = 0; fd < static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 1U << 16)); ++fd) {
      if (describe(fd, socket)) found.push_back(socket);
    }
    return found;
  }
  if (!folder) {
    throw Error(Errc::transport, "cannot list the process's own sockets",
                {.operation = "open /proc/self/fd", .status = strerror(errno), .hint = "mount /proc"});
  }
  while (const dirent* entry = readdir(folder.get())) {
    const std::string_view name = entry->d_name;
    int fd = -1;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), fd);
    OwnSocket socket;
    if (parsed.ec == std::errc() && describe(fd, socket)) found.push_back(socket);
  }
  return found;
}

void retransmit_soon(int fd, bool on) noexcept {
  // linux/tcp.h; the names are younger than some systems' headers, and older kernels refuse the second.
  constexpr int thin_linear_timeouts = 16;
  constexpr int rto_max_ms = 44;
  const int thin = on ? 1 : 0;
  const int pause = on ? 1'000 : 120'000;
  setsockopt(fd, IPPROTO_TCP, thin_linear_timeouts, &thin, sizeof thin);
  setsockopt(fd, IPPROTO_TCP, rto_max_ms, &pause, sizeof pause);
}

Fd listen_on(TcpAddress where) {
  socklen_t length = 0;
  const sockaddr_storage address = where.socket_address(length);
  Fd fd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!fd || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      listen(fd.get(), SOMAXCONN) != 0) {
    throw Error(Errc::config, "cannot listen on " + where.text(),
                {.operation = "start engine", .status = strerror(errno)});
  }
  return fd;
}

Fd connect_to(const TcpAddress& where, TcpAddress from, std::chrono::steady_clock::time_point deadline) {
  const auto fail = [&](int status) {
    return Error(Errc::connect,
                 "the owner could not be reached at " + where.text() + " port " + std::to_string(where.port),
                 {.operation = "connect",
                  .status = strerror(status),
                  .hint = "check that it runs and that its listen device is reachable from here"});
  };
  if (from.ipv4() != where.ipv4()) {
    throw Error(Errc::connect,
                "the owner is at " + where.text() + " and this engine at " + from.text() +
                    ": IPv4 and IPv6 do not reach each other",
                {.operation = "connect", .hint = "let listen be DEVICE/ipv6 on both sides, or on neither"});
  }
  socklen_t length = 0;
  const sockaddr_storage address = where.socket_address(length);
  Fd fd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!fd) throw fail(errno);
  // UCX connects from its device's address, and the owner compares the two.
  from.port = 0;
  socklen_t from_length = 0;
  const sockaddr_storage source = from.socket_address(from_length);
  static_cast<void>(bind(fd.get(), reinterpret_cast<const sockaddr*>(&source), from_length));
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) return fd;
  if (errno != EINPROGRESS) throw fail(errno);
  pollfd waiting{fd.get(), POLLOUT, 0};
  int ready = -1;
  do {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    ready = poll(&waiting, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000)));
  } while (ready < 0 && errno == EINTR);
  if (ready != 1) throw fail(ETIMEDOUT);
  const int status = option(fd.get(), SO_ERROR);
  if (status != 0) throw fail(status);
  return fd;
}

}  // namespace kvdirect
