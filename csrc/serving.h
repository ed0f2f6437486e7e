// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "counters.h"
#include "lanes/pull_server.h"
#include "progress.h"
#include "protocol.h"
#include "stream.h"
#include "tcp_socket.h"

namespace kvdirect {

// The owner's half of an engine on the control thread: admits readers and obeys what admitted ones say.
class Serving {
 public:
  using Clock = std::chrono::steady_clock;

  struct Self {
    std::uint64_t incarnation = 0;
    Bytes admission;
    std::uint64_t segment_bytes = 0;
    // What a reader on this host needs; nullopt where no lane reads this process directly. The nonce is per session.
    std::function<std::optional<HostAccess>()> host;
    // What a reader with an RDMA device needs; nullopt without one.
    std::function<std::optional<RdmaAccess>()> rdma;
    // What a reader on this host needs to map our memory; nullopt where it cannot be mapped.
    std::function<std::optional<ShmAccess>()> shm;
    std::function<std::shared_ptr<const Published>()> published;
  };

  Serving(Self self, std::shared_ptr<LeaseTable> leases, std::shared_ptr<Counters> counters);
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;
  ~Serving();

  // Everything below runs on the control thread. `listen`: a network device.
  void start(Progress& progress, const std::string& listen);
  bool pump();
  Clock::time_point tick(Clock::time_point now);
  void stop();
  // Where readers connect; once started.
  [[nodiscard]] const TcpAddress& address() const noexcept { return _address; }

 private:
  // A reader; a stranger until its hello was accepted.
  struct Session;

  void watch_listener();
  void accept_all();
  void make_room_for_one();
  void serve(Session& session);
  void on_message(Session& session, MessageId message, BytesView body);
  void on_hello(Session& session, BytesView body);
  void on_probe(Session& session, BytesView body);
  void on_pull(Session& session, BytesView body);
  void on_cancel(Session& session, BytesView body);
  void on_renew(Session& session, BytesView body);
  void on_complete(Session& session, BytesView body);
  void admit(Session& session, const Hello& hello);
  [[nodiscard]] std::optional<Refuse> objection(const Hello& hello) const;
  void lose(Session& session);
  bool drop_lost();

  Self _self;
  std::shared_ptr<LeaseTable> _leases;
  std::shared_ptr<Counters> _counters;
  ServeContext _context;
  Progress* _progress = nullptr;
  TcpAddress _address;
  Fd _listener;
  bool _deaf = false;  // out of descriptors: nobody is let in for a moment
  std::list<std::unique_ptr<Session>> _sessions;
  std::size_t _strangers = 0;
  bool _any_lost = false;
};

}  // namespace kvdirect
