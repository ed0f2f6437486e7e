// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "connection.h"
#include "counters.h"
#include "descriptor.h"
#include "progress.h"

namespace kvdirect {

// The reader's half of an engine on the control thread: connections, the pulls of the message lane, renewals.
class Reading {
 public:
  struct Self {
    std::uint64_t incarnation = 0;
    std::string name;
    std::uint64_t segment_bytes = 0;
  };

  Reading(Self self, std::shared_ptr<Counters> counters) : _self(std::move(self)), _counters(std::move(counters)) {}

  // Everything below runs on the control thread.
  void start(Progress& progress);
  void open(const std::shared_ptr<Connection>& connection, const Descriptor& owner);
  void probe(Connection& connection, std::promise<Proof> promise);
  void begin(Connection& connection, std::shared_ptr<Pull> pull);
  // A pull that somebody else ended: forget it, so that it becomes quiet.
  void forget(Connection& connection, const Pull* pull);
  void hold(Connection& connection, LeaseRef lease, double term, double affirm_within);
  void affirm(Connection& connection, LeaseRef lease);
  void drop(Connection& connection, LeaseRef lease);
  void complete(Connection& connection, LeaseRef lease, std::uint32_t readers);
  // Says goodbye, fails what runs and lets the endpoint go.
  void leave(const std::shared_ptr<Connection>& connection, const Error& why);

  bool pump();
  Clock::time_point tick(Clock::time_point now);
  void stop();

 private:
  using Handler = void (Reading::*)(Connection&, BytesView);
  void on(MessageId message, Handler handler);
  Connection* find(const Stamp& stamp);
  void on_welcome(Connection& connection, BytesView body);
  void on_refuse(Connection& connection, BytesView body);
  void on_proof(Connection& connection, BytesView body);
  void on_verdict(Connection& connection, BytesView body);
  void on_bye(Connection& connection, BytesView body);
  void on_data(BytesView header, BytesView body);
  void request(Connection& connection, std::uint64_t id, const Pull& pull);
  void admit_waiting(Connection& connection);
  void finish(Connection& connection, std::uint64_t id);
  void finish_if_complete(Connection& connection, std::uint64_t id);
  void lose(Connection& connection, const Error& why);
  void renew(Connection& connection, LeaseRef lease, Connection::Hold& hold, Clock::time_point now);

  Self _self;
  std::shared_ptr<Counters> _counters;
  Progress* _progress = nullptr;
  bool _stopped = false;
  std::unordered_map<std::uint64_t, std::shared_ptr<Connection>> _connections;
  std::vector<std::shared_ptr<Connection>> _lost;  // their endpoints are closed outside UCX's callbacks
};

}  // namespace kvdirect
