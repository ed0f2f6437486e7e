// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "knock.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace kvdirect {

namespace {

Error closed(int status) {
  return {Errc::connect,
          "the owner's gate does not admit us",
          {.operation = "connect",
           .status = status == 0 ? "connection closed" : strerror(status),
           .hint = "the descriptor's secret must be the owner's; fetch a fresh descriptor"}};
}

}  // namespace

Knock::Knock(const GateAddress& gate, Bytes admission, const TcpAddress& reader, Clock::time_point deadline)
    : _gate(gate),
      _admission(std::move(admission)),
      _reader_port(reader.port),
      _fd(connect_to(TcpAddress::parse(gate.host, gate.gate_port), reader, deadline)),
      _owner(TcpAddress::parse(gate.host, gate.worker_port)) {
  for (const OwnSocket& socket : own_tcp_sockets()) {
    if (socket.remote == _owner) _earlier.insert(socket.local.port);
  }
  // Before UCX opens anything: a session that comes to nothing there makes UCX pair later ones differently.
  say({_admission, _reader_port, {}});
  if (!hear(deadline)) {
    throw Error(Errc::connect, "the owner did not answer in time",
                {.operation = "connect", .status = progress(), .hint = "it may be busy or stopped"});
  }
}

void Knock::vouch(Clock::time_point until) {
  const std::lock_guard lock(_mutex);
  name_new_connections();
  admit_dialled();
  hear(until);
}

void Knock::name_new_connections() {
  KnockRequest request{_admission, _reader_port, {}};
  for (const OwnSocket& socket : own_tcp_sockets()) {
    if (socket.remote != _owner || _named.contains(socket.local.port)) continue;
    if (_earlier.contains(socket.local.port)) continue;
    if (request.ports.size() == KnockRequest::max_ports) break;
    request.ports.push_back(socket.local.port);
    // What UCX sends before the owner has let us through is dropped there.
    retransmit_soon(socket.fd, true);
  }
  if (request.ports.empty()) return;
  say(request);
  _named.insert(request.ports.begin(), request.ports.end());
  _named_count = _named.size();
}

void Knock::relax() noexcept {
  try {
    const std::lock_guard lock(_mutex);
    for (const OwnSocket& socket : own_tcp_sockets()) {
      if (socket.remote == _owner && _named.contains(socket.local.port)) retransmit_soon(socket.fd, false);
    }
  } catch (const std::exception&) {
    // Out of descriptors: they stay impatient.
    return;
  }
}

std::string Knock::progress() const {
  if (!_admitted) return "not admitted yet";
  return "admitted, " + std::to_string(_open) + " of " + std::to_string(_named_count) + " connections let through";
}

void Knock::say(const KnockRequest& request) {
  const Bytes frame = request.encode_frame();
  // Far below what an idle connection buffers, so all or nothing.
  const ssize_t sent = send(_fd.get(), frame.data(), frame.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(frame.size())) throw closed(sent < 0 ? errno : EAGAIN);
}

bool Knock::hear(Clock::time_point until) {
  while (true) {
    std::array<std::byte, GateAnswer::bytes * KnockRequest::max_ports> chunk{};
    const ssize_t got = recv(_fd.get(), chunk.data(), chunk.size(), 0);
    if (got == 0) throw closed(0);
    if (got < 0 && errno != EAGAIN && errno != EINTR) throw closed(errno);
    if (got > 0) {
      _received.insert(_received.end(), chunk.begin(), chunk.begin() + got);
      for (; _received.size() >= GateAnswer::bytes;
           _received.erase(_received.begin(), _received.begin() + GateAnswer::bytes)) {
        obey(GateAnswer::decode(BytesView(_received).first(GateAnswer::bytes)));
      }
    }
    if (_admitted && _open >= _named.size()) return true;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    if (left <= 0) return false;
    pollfd waiting{_fd.get(), POLLIN, 0};
    poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(left, 1000)));
  }
}

void Knock::obey(GateAnswer answer) {
  switch (answer.kind) {
    case GateAnswer::Kind::admitted: _admitted = true; break;
    case GateAnswer::Kind::open: ++_open; break;
    case GateAnswer::Kind::dialling:
      if (_dialled.size() < KnockRequest::max_ports) _dialled.insert(answer.port);
      admit_dialled();
      break;
  }
}

// The owner is trusted as much as its descriptor, so what it says it dials is let through.
void Knock::admit_dialled() {
  std::erase_if(_dialled, [this](std::uint16_t port) { return unshield(_reader_port, {_owner.host, port}); });
}

}  // namespace kvdirect
