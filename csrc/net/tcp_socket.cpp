// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "net/tcp_socket.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/error.h"
#include "net/readiness.h"

namespace kvdirect {

namespace {

constexpr std::string_view ipv6_suffix = "/ipv6";
constexpr std::array<std::byte, 12> mapped_prefix{std::byte{0}, std::byte{0}, std::byte{0},    std::byte{0},
                                                  std::byte{0}, std::byte{0}, std::byte{0},    std::byte{0},
                                                  std::byte{0}, std::byte{0}, std::byte{0xff}, std::byte{0xff}};

int pending_error(int fd) {
  int value = -1;
  socklen_t length = sizeof value;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &length) == 0 ? value : errno;
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

TcpAddress device_address(const std::string& listen) {
  const bool only_ipv6 = listen.ends_with(ipv6_suffix);
  const std::string device = listen.substr(0, listen.size() - (only_ipv6 ? ipv6_suffix.size() : 0));
  ifaddrs* all = nullptr;
  const int status = getifaddrs(&all) == 0 ? 0 : errno;
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owned(all, &freeifaddrs);
  std::optional<TcpAddress> ipv6;
  for (const ifaddrs* entry = all; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_name != device || (entry->ifa_flags & IFF_UP) == 0) continue;
    sockaddr_storage address{};
    if (entry->ifa_addr->sa_family == AF_INET && !only_ipv6) {
      std::memcpy(&address, entry->ifa_addr, sizeof(sockaddr_in));
      return TcpAddress::of(address);
    }
    if (entry->ifa_addr->sa_family != AF_INET6 || ipv6) continue;
    std::memcpy(&address, entry->ifa_addr, sizeof(sockaddr_in6));
    sockaddr_in6 v6{};
    std::memcpy(&v6, &address, sizeof v6);
    // One that means something only on this link cannot be told to another host.
    if (!IN6_IS_ADDR_LINKLOCAL(&v6.sin6_addr)) ipv6 = TcpAddress::of(address);
  }
  if (ipv6) return *ipv6;
  throw Error(Errc::config, "there is no network device to listen on called listen=" + listen,
              {.operation = "start engine",
               .status = status == 0 ? "" : strerror(status),
               .hint = std::string("Name a device that is up, such as lo or eth0 (`ip address` lists them)") +
                       (only_ipv6 ? ", and that has an IPv6 address" : "")});
}

Fd listen_on(TcpAddress& where) {
  socklen_t length = 0;
  sockaddr_storage address = where.socket_address(length);
  Fd fd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (!fd || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      listen(fd.get(), SOMAXCONN) != 0 || getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    throw Error(Errc::config, "cannot listen on " + where.text(),
                {.operation = "start engine", .status = strerror(errno)});
  }
  where = TcpAddress::of(address);
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
  // Through the device that the engine was told to use, where the way there leads through it.
  from.port = 0;
  socklen_t from_length = 0;
  const sockaddr_storage source = from.socket_address(from_length);
  static_cast<void>(bind(fd.get(), reinterpret_cast<const sockaddr*>(&source), from_length));
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) return fd;
  if (errno != EINPROGRESS) throw fail(errno);
  if (!ready_by(fd.get(), POLLOUT, deadline)) throw fail(ETIMEDOUT);
  const int status = pending_error(fd.get());
  if (status != 0) throw fail(status);
  return fd;
}

}  // namespace kvdirect
