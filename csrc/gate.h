// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "counters.h"
#include "fd.h"
#include "protocol.h"
#include "shield.h"
#include "tcp_socket.h"

namespace kvdirect {

// Where a reader knocks, and the port of the worker behind the gate. Part of the descriptor.
struct GateAddress {
  std::string host;  // numeric
  std::uint16_t gate_port = 0;
  std::uint16_t worker_port = 0;
};

// What a reader says at the gate: the owner's secret, where its own worker listens, and the local ports of its
// connections to the owner's worker.
struct KnockRequest {
  static constexpr std::size_t max_bytes = 1024;
  static constexpr std::size_t max_ports = 64;
  Bytes admission;
  std::uint16_t reader_port = 0;
  std::vector<std::uint16_t> ports;

  // With a u32 length in front.
  [[nodiscard]] Bytes encode_frame() const;
  static KnockRequest decode(BytesView body);
};

// What the owner answers.
struct GateAnswer {
  enum class Kind : std::uint8_t {
    admitted,  // the secret is right
    open,      // data on the reader's connection from `port` gets through
    dialling,  // UCX here has opened a connection from `port` to the reader's worker
  };
  static constexpr std::size_t bytes = 3;
  Kind kind = Kind::admitted;
  std::uint16_t port = 0;

  [[nodiscard]] Bytes encode() const;
  static GateAnswer decode(BytesView bytes);
};

// The owner's gate: a plain socket on which readers vouch for their connections to the UCX worker, whose data is
// dropped until then (shield.h). Control thread only.
class Gate {
 public:
  using Clock = std::chrono::steady_clock;

  // `worker`: the address the shielded worker listens on; `other_port`: that of the engine's other shielded worker.
  // Throws Error(config).
  Gate(const TcpAddress& worker, std::uint16_t other_port, Bytes admission, std::shared_ptr<Counters> counters);

  [[nodiscard]] GateAddress address() const { return _address; }
  // Readable when pump() has something to do.
  [[nodiscard]] int event_fd() const noexcept { return _epoll.get(); }
  bool pump();
  Clock::time_point tick(Clock::time_point now);
  // As of the last tick.
  [[nodiscard]] bool worker_listens() const noexcept { return _worker_listens; }

 private:
  struct Visitor {
    Fd fd;
    TcpAddress from;
    Bytes received;
    std::vector<std::uint16_t> vouched;  // not let through yet
    std::uint16_t reader_port = 0;
    std::set<std::uint16_t> dialled;  // and said so
    Clock::time_point deadline;
    Clock::duration pause{};
    bool admitted = false;
    bool gone = false;
  };

  void accept_all();
  void watch(int fd);
  void hear(Visitor& visitor);
  void obey(Visitor& visitor, BytesView body);
  void let_through(Visitor& visitor);
  void announce_dialling(Visitor& visitor);
  void answer(Visitor& visitor, GateAnswer answer);
  void let_go();

  Bytes _admission;
  std::shared_ptr<Counters> _counters;
  GateAddress _address;
  Fd _listener;
  Fd _epoll;
  std::list<Visitor> _visitors;
  ShieldSweeper _sweeper;
  Clock::time_point _next_sweep;
  bool _worker_listens = true;
};

}  // namespace kvdirect
