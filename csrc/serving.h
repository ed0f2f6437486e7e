// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "counters.h"
#include "gate.h"
#include "lanes/pull_server.h"
#include "progress.h"
#include "protocol.h"

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
    std::function<std::shared_ptr<const Published>()> published;
  };

  Serving(Self self, std::shared_ptr<LeaseTable> leases, std::shared_ptr<Counters> counters);

  // Everything below runs on the control thread.
  void start(Progress& progress);
  bool pump();
  Clock::time_point tick(Clock::time_point now);
  void stop();
  // Where readers knock; once started.
  [[nodiscard]] GateAddress gate() const { return _gate->address(); }

 private:
  struct Session {
    std::uint64_t id = 0;
    Token token{};
    std::string reader;
    Stamp to_reader;
    Token nonce{};  // readers on this host read it here
    std::unique_ptr<ucx::Endpoint> endpoint;
    std::unique_ptr<PullServer> server;
    bool lost = false;
  };
  using Handler = void (Serving::*)(Session&, BytesView);

  void on(MessageId message, Handler handler);
  void on_hello(BytesView header, BytesView body);
  void on_probe(Session& session, BytesView body);
  void on_pull(Session& session, BytesView body);
  void on_cancel(Session& session, BytesView body);
  void on_renew(Session& session, BytesView body);
  void on_complete(Session& session, BytesView body);
  void on_bye(Session& session, BytesView body);
  void admit(const Hello& hello);
  std::optional<Refuse> objection(const Hello& hello) const;
  bool drop_lost();
  bool attend_gate(const std::function<bool()>& act);

  Self _self;
  std::shared_ptr<LeaseTable> _leases;
  std::shared_ptr<Counters> _counters;
  ServeContext _context;
  Progress* _progress = nullptr;
  std::unique_ptr<Gate> _gate;
  std::unordered_map<std::uint64_t, std::unique_ptr<Session>> _sessions;
  std::vector<Hello> _hellos;  // endpoints are made outside UCX's callbacks
  bool _any_lost = false;
};

}  // namespace kvdirect
