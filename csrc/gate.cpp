// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "gate.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "codec.h"

namespace kvdirect {

namespace {

constexpr std::size_t max_visitors = 256;
// A visitor stays until its session stands; readers give up long before.
constexpr auto visit_time = std::chrono::seconds(60);
constexpr auto first_pause = std::chrono::milliseconds(1);
constexpr auto last_pause = std::chrono::milliseconds(50);
constexpr auto sweep_interval = std::chrono::milliseconds(200);
constexpr int accepts_at_once = 64;
constexpr std::size_t length_bytes = 4;

}  // namespace

Bytes KnockRequest::encode_frame() const {
  Writer body;
  body.u32(static_cast<std::uint32_t>(admission.size()));
  body.raw(admission);
  body.u16(reader_port);
  body.u32(static_cast<std::uint32_t>(ports.size()));
  for (const std::uint16_t port : ports) body.u16(port);
  Writer frame;
  frame.u32(static_cast<std::uint32_t>(body.size()));
  frame.raw(body.bytes());
  return frame.take();
}

KnockRequest KnockRequest::decode(BytesView body) {
  Reader reader(body, "knock");
  KnockRequest request;
  const auto secret = reader.raw(reader.count("admission", limits::admission, 1), "admission");
  request.admission.assign(secret.begin(), secret.end());
  request.reader_port = reader.u16("reader port");
  request.ports.resize(reader.count("ports", max_ports, 2));
  for (std::uint16_t& port : request.ports) port = reader.u16("port");
  reader.finish();
  return request;
}

Bytes GateAnswer::encode() const {
  Writer writer;
  writer.u8(static_cast<std::uint8_t>(kind));
  writer.u16(port);
  return writer.take();
}

GateAnswer GateAnswer::decode(BytesView bytes) {
  Reader reader(bytes, "gate answer");
  const std::uint8_t kind = reader.u8("kind");
  if (kind > static_cast<std::uint8_t>(Kind::dialling)) reader.fail("kind", "is unknown");
  return {static_cast<Kind>(kind), reader.u16("port")};
}

Gate::Gate(const TcpAddress& worker, std::uint16_t other_port, Bytes admission, std::shared_ptr<Counters> counters)
    : _admission(std::move(admission)),
      _counters(std::move(counters)),
      _listener(listen_on({worker.host, 0})),
      _epoll(epoll_create1(EPOLL_CLOEXEC)),
      _sweeper({worker.port, other_port}) {
  OwnSocket listener;
  if (!_epoll || !describe(_listener.get(), listener)) {
    throw Error(Errc::transport, "the kernel refused", {.operation = "open the gate", .status = strerror(errno)});
  }
  _address = {worker.text(), listener.local.port, worker.port};
  watch(_listener.get());
}

void Gate::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.fd = fd;
  if (epoll_ctl(_epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0) return;
  throw Error(Errc::transport, "the kernel refused", {.operation = "epoll_ctl", .status = strerror(errno)});
}

bool Gate::pump() {
  std::array<epoll_event, 32> events{};
  const int count = epoll_wait(_epoll.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    const int fd = events.at(static_cast<std::size_t>(i)).data.fd;
    if (fd == _listener.get()) {
      accept_all();
      continue;
    }
    const auto visitor = std::ranges::find_if(_visitors, [fd](const Visitor& v) { return v.fd.get() == fd; });
    if (visitor != _visitors.end()) hear(*visitor);
  }
  let_go();
  return count > 0;
}

void Gate::accept_all() {
  for (int i = 0; i < accepts_at_once; ++i) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    Fd fd(accept4(_listener.get(), reinterpret_cast<sockaddr*>(&address), &length, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return;
    // Strangers that only sit there must not keep readers out.
    if (_visitors.size() >= max_visitors) {
      const auto stranger = std::ranges::find_if(_visitors, [](const Visitor& v) { return !v.admitted; });
      if (stranger == _visitors.end()) continue;
      _visitors.erase(stranger);
    }
    watch(fd.get());
    Visitor& visitor = _visitors.emplace_back();
    visitor.fd = std::move(fd);
    visitor.from = TcpAddress::of(address);
    visitor.deadline = Clock::now() + visit_time;
  }
}

void Gate::hear(Visitor& visitor) {
  std::array<std::byte, length_bytes + KnockRequest::max_bytes> chunk{};
  const ssize_t got = recv(visitor.fd.get(), chunk.data(), chunk.size(), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    visitor.gone = true;
    return;
  }
  visitor.received.insert(visitor.received.end(), chunk.begin(), chunk.begin() + got);
  while (visitor.received.size() >= length_bytes) {
    const std::size_t length = Reader(visitor.received).u32("length");
    if (length > KnockRequest::max_bytes) {
      ++_counters->bad_message;
      visitor.gone = true;
      return;
    }
    if (visitor.received.size() < length_bytes + length) return;
    const Bytes body(visitor.received.begin() + length_bytes,
                     visitor.received.begin() + static_cast<std::ptrdiff_t>(length_bytes + length));
    visitor.received.erase(visitor.received.begin(),
                           visitor.received.begin() + static_cast<std::ptrdiff_t>(length_bytes + length));
    obey(visitor, body);
    if (visitor.gone) return;
  }
}

void Gate::obey(Visitor& visitor, BytesView body) {
  try {
    const KnockRequest request = KnockRequest::decode(body);
    if (!same_secret(request.admission, _admission)) {
      ++_counters->bad_admission;
      visitor.gone = true;
      return;
    }
    visitor.reader_port = request.reader_port;
    visitor.vouched.insert(visitor.vouched.end(), request.ports.begin(), request.ports.end());
    if (visitor.vouched.size() > KnockRequest::max_ports) visitor.gone = true;
    if (!std::exchange(visitor.admitted, true)) answer(visitor, {GateAnswer::Kind::admitted, 0});
    visitor.pause = first_pause;
  } catch (const Error&) {
    ++_counters->bad_message;
    visitor.gone = true;
  }
  if (!visitor.gone) let_through(visitor);
}

void Gate::let_through(Visitor& visitor) {
  std::erase_if(visitor.vouched, [&](std::uint16_t port) {
    if (!unshield(_address.worker_port, {visitor.from.host, port})) return false;
    answer(visitor, {GateAnswer::Kind::open, port});
    return true;
  });
}

// UCX normally answers over the reader's connection; after a session that came to nothing it opens one of its own.
void Gate::announce_dialling(Visitor& visitor) {
  const TcpAddress reader{visitor.from.host, visitor.reader_port};
  for (const OwnSocket& socket : own_tcp_sockets()) {
    if (socket.listening || socket.remote != reader || !visitor.dialled.insert(socket.local.port).second) continue;
    retransmit_soon(socket.fd, true);
    answer(visitor, {GateAnswer::Kind::dialling, socket.local.port});
  }
}

void Gate::answer(Visitor& visitor, GateAnswer answer) {
  const Bytes bytes = answer.encode();
  // A few bytes on an idle connection: all or nothing.
  const ssize_t sent = send(visitor.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(bytes.size())) visitor.gone = true;
}

void Gate::let_go() {
  for (const Visitor& visitor : _visitors) {
    if (!visitor.gone || visitor.dialled.empty()) continue;
    const TcpAddress reader{visitor.from.host, visitor.reader_port};
    for (const OwnSocket& socket : own_tcp_sockets()) {
      if (!socket.listening && socket.remote == reader) retransmit_soon(socket.fd, false);
    }
  }
  std::erase_if(_visitors, [](const Visitor& visitor) { return visitor.gone; });
}

Gate::Clock::time_point Gate::tick(Clock::time_point now) {
  if (_next_sweep <= now) {
    _worker_listens = _sweeper.sweep(now);
    _next_sweep = now + sweep_interval;
  }
  auto next = _next_sweep;
  for (Visitor& visitor : _visitors) {
    if (visitor.deadline <= now) visitor.gone = true;
    if (!visitor.admitted) continue;
    let_through(visitor);
    announce_dialling(visitor);
    next = std::min(next, now + visitor.pause);
    visitor.pause = std::min<Clock::duration>(2 * visitor.pause, last_pause);
  }
  let_go();
  return next;
}

}  // namespace kvdirect
