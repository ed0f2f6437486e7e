// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/counters.h"
#include "net/event_thread.h"
#include "session/reader_connection.h"
#include "wire/descriptor.h"

namespace kvdirect {

// The reader's half of an engine on one of its threads: connections, what they carry of the message lane's pulls,
// renewals.
class ReaderSessions {
 public:
  struct Self {
    std::uint64_t incarnation = 0;
    std::string name;
  };

  ReaderSessions(Self self, std::shared_ptr<Counters> counters)
      : _self(std::move(self)), _counters(std::move(counters)) {}

  // Everything below runs on that thread.
  void start(Progress& progress);
  // `fd`: connected to the owner.
  void open(const std::shared_ptr<Connection>& connection, const Descriptor& owner, Fd fd);
  void probe(Connection& connection, std::promise<Proof> promise);
  void begin(Connection& connection, Portion portion);
  // From now on `connection` ends with the others of its session, which `on_lost` is to tell.
  void join(Connection& connection, std::function<void(const Error& why)> on_lost);
  // A pull that somebody else ended: forget what is here of it, so that it becomes quiet.
  void forget(Connection& connection, const Pull* pull);
  void hold(Connection& connection, LeaseRef lease, double term, double affirm_within);
  void affirm(Connection& connection, LeaseRef lease);
  void drop(Connection& connection, LeaseRef lease);
  void complete(Connection& connection, LeaseRef lease, std::uint32_t readers);
  // Says goodbye, fails what runs and lets the connection go.
  void leave(const std::shared_ptr<Connection>& connection, const Error& why);

  void pump();
  Clock::time_point tick(Clock::time_point now);
  void stop();
  // Goodbyes that have not arrived yet.
  [[nodiscard]] bool parting() const noexcept { return !_parting.empty(); }

 private:
  // What comes over one connection.
  class Inlet;
  struct Parting {
    std::unique_ptr<Stream> stream;
    Clock::time_point deadline;
  };

  void on_message(Connection& connection, MessageId message, BytesView body);
  void on_welcome(Connection& connection, BytesView body);
  void on_refuse(Connection& connection, BytesView body);
  void on_proof(Connection& connection, BytesView body);
  void on_verdict(Connection& connection, BytesView body);
  std::size_t place(Connection& connection, const DataHeader& data, std::uint64_t bytes, std::span<iovec> parts);
  void landed(Connection& connection, const DataHeader& data, std::uint64_t bytes);
  void serve(const std::shared_ptr<Connection>& connection);
  void ask(Connection& connection);
  void ask_some(Connection& connection, std::uint64_t id, Connection::Running& running);
  void admit_waiting(Connection& connection);
  void finish(Connection& connection, std::uint64_t id);
  void finish_if_complete(Connection& connection, std::uint64_t id);
  void lose(Connection& connection, const Error& why);
  void renew(Connection& connection, LeaseRef lease, Connection::Hold& hold, Clock::time_point now);

  Self _self;
  std::shared_ptr<Counters> _counters;
  Progress* _progress = nullptr;
  bool _stopped = false;
  std::unordered_set<std::shared_ptr<Connection>> _connections;
  std::vector<std::shared_ptr<Connection>> _lost;  // let go outside their streams' callbacks
  std::list<Parting> _parting;                     // until the owner has heard everything
};

}  // namespace kvdirect
