// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "shield.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>

#include "error.h"

namespace kvdirect {

namespace {

constexpr int attempts = 8;
// Longer than any reader takes to vouch.
constexpr auto patience = std::chrono::seconds(60);
constexpr std::size_t max_shielded = 128;

// Passes segments that are all header, drops the others. Offsets count from the TCP header, whose length in words is
// in the upper half of byte 12. (linux/filter.h, classic BPF)
std::array<sock_filter, 8> no_data_program() {
  return {{BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 12), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4),
           BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 2), BPF_STMT(BPF_MISC | BPF_TAX, 0),
           BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_JUMP(BPF_JMP | BPF_JGT | BPF_X, 0, 0, 1),
           BPF_STMT(BPF_RET | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, 0xffffffffU)}};
}

void drop_data(int fd) {
  auto program = no_data_program();
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0) return;
  const int status = errno;
  throw Error(
      Errc::transport, "the kernel refused a socket filter, without which strangers could write to this process",
      {.operation = "guard UCX's socket",
       .status = strerror(status),
       .hint = status == EPERM ? "newer kernels permit it with CAP_NET_ADMIN only (containers: --cap-add NET_ADMIN)"
                               : "the kernel must be built with socket filters (CONFIG_NET)"});
}

// Listening sockets that came into being since, and whose port stands in the worker's address.
std::vector<OwnSocket> new_listeners(const std::vector<OwnSocket>& before, const ucx::Worker& worker) {
  const auto address = worker.address();
  std::vector<OwnSocket> found;
  for (const OwnSocket& socket : own_tcp_sockets()) {
    const auto was_there = [&](const OwnSocket& old) { return old.listening && old.local == socket.local; };
    if (!socket.listening || std::ranges::any_of(before, was_there)) continue;
    const std::array port{static_cast<std::byte>(socket.local.port >> 8), static_cast<std::byte>(socket.local.port)};
    if (!std::ranges::search(address, port).empty()) found.push_back(socket);
  }
  return found;
}

// Whether somebody connected before the filter was there: accepted already, or waiting to be.
bool anyone_inside(const OwnSocket& listener) {
  tcp_info info{};
  socklen_t length = sizeof info;
  // For a listening socket tcpi_unacked is the number of connections waiting to be accepted. (net/ipv4/tcp.c)
  if (getsockopt(listener.fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0 || info.tcpi_unacked != 0) return true;
  return std::ranges::any_of(own_tcp_sockets(), [&](const OwnSocket& socket) {
    return !socket.listening && socket.local.port == listener.local.port;
  });
}

// Calls `act` with a descriptor of our own for the same connection: UCX may close its own any time, and the number may
// come to mean another connection.
template <typename Act>
void with_connection(const OwnSocket& socket, Act act) {
  const Fd mine(fcntl(socket.fd, F_DUPFD_CLOEXEC, 0));
  // Out of descriptors: UCX's own will have to do, a moment after it was looked at.
  const int fd = mine || errno != EMFILE ? mine.get() : socket.fd;
  OwnSocket same;
  if (fd >= 0 && describe(fd, same) && same.local == socket.local && same.remote == socket.remote) act(fd);
}

bool is_shielded(int fd) {
  socklen_t instructions = 0;
  return getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &instructions) == 0 && instructions > 0;
}

}  // namespace

std::shared_ptr<ucx::Worker> shielded_worker(const std::function<std::shared_ptr<ucx::Worker>()>& make_worker,
                                             TcpAddress& where) {
  for (int attempt = 0; attempt < attempts; ++attempt) {
    const auto before = own_tcp_sockets();
    auto worker = make_worker();
    const auto listeners = new_listeners(before, *worker);
    if (listeners.empty()) {
      throw Error(Errc::transport, "UCX's listening socket was not found",
                  {.operation = "guard UCX's socket", .hint = "supported: UCX 1.19 to 1.22"});
    }
    if (listeners.size() > 1) {
      throw Error(Errc::config, "UCX listens on several addresses",
                  {.operation = "guard UCX's socket", .hint = "let listen name one network device"});
    }
    drop_data(listeners.front().fd);
    if (anyone_inside(listeners.front())) continue;  // another worker, another port
    where = listeners.front().local;
    return worker;
  }
  throw Error(Errc::transport, "somebody keeps connecting to UCX's socket before it is guarded",
              {.operation = "guard UCX's socket"});
}

bool unshield(std::uint16_t local_port, const TcpAddress& remote) {
  const auto matches = [&](const OwnSocket& socket) {
    return !socket.listening && socket.local.port == local_port && socket.remote == remote;
  };
  for (const OwnSocket& socket : own_tcp_sockets()) {
    if (!matches(socket)) continue;
    bool off = false;
    with_connection(socket, [&](int fd) {
      const int ignored = 0;
      // ENOENT: it was taken off before.
      off = setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &ignored, sizeof ignored) == 0 || errno == ENOENT;
    });
    if (off) return true;
  }
  return false;
}

bool ShieldSweeper::sweep(Clock::time_point now) {
  std::map<Key, Clock::time_point> still;
  std::multimap<Clock::time_point, OwnSocket> oldest;
  std::set<std::uint16_t> listening;
  for (const OwnSocket& socket : own_tcp_sockets()) {
    if (std::ranges::find(_ports, socket.local.port) == _ports.end()) continue;
    if (socket.listening) listening.insert(socket.local.port);
    if (socket.listening || !is_shielded(socket.fd)) continue;
    const Key key{socket.local.port, socket.remote.text() + " " + std::to_string(socket.remote.port)};
    const auto known = _since.find(key);
    const auto since = known == _since.end() ? now : known->second;
    still.emplace(key, since);
    oldest.emplace(since, socket);
  }
  _since = std::move(still);
  std::size_t left = oldest.size();
  for (const auto& [since, socket] : oldest) {
    if (now - since < patience && left <= max_shielded) break;
    --left;
    // UCX sees the end of the connection and closes its side.
    with_connection(socket, [](int fd) {
      if (is_shielded(fd)) ::shutdown(fd, SHUT_RDWR);
    });
  }
  return std::ranges::all_of(_ports, [&](std::uint16_t port) { return listening.contains(port); });
}

}  // namespace kvdirect
