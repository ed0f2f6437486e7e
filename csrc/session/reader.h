// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/counters.h"
#include "net/event_thread.h"
#include "session/reader_connection.h"
#include "wire/descriptor.h"

namespace kvdirect {

// The reader's half of an engine on one of its threads: connections, their pulls, renewals.
class ReaderSessions {
 public:
  // `incarnation`, `name`: the engine's.
  ReaderSessions(std::uint64_t incarnation, std::string name, std::shared_ptr<Counters> counters)
      : _incarnation(incarnation), _name(std::move(name)), _counters(std::move(counters)) {}

  // Everything below runs on that thread.
  void start(EventThread& thread);
  // `fd`: connected to the owner.
  void open(ReaderConnection& connection, const Descriptor& owner, Fd fd);
  void probe(ReaderConnection& connection, std::promise<Proof> promise);
  void begin(ReaderConnection& connection, Stripe stripe);
  // From now on `connection` ends with the others of its session, which `on_lost` is to tell.
  void join(ReaderConnection& connection, std::function<void(const Error& why)> on_lost);
  // A pull that somebody else ended: forget what is here of it, so that it becomes quiet.
  void forget(ReaderConnection& connection, const std::shared_ptr<Pull>& pull);
  void hold(ReaderConnection& connection, LeaseRef lease, double term, double affirm_within);
  void affirm(ReaderConnection& connection, LeaseRef lease);
  void drop(ReaderConnection& connection, LeaseRef lease);
  void complete(ReaderConnection& connection, LeaseRef lease, std::uint32_t readers);
  // Dropped where the owner takes nothing in.
  void note(ReaderConnection& connection, const Note& note);
  // Says goodbye, fails what runs and lets the connection go.
  void leave(ReaderConnection& connection, const Error& why);

  void poll();
  Clock::time_point tick(Clock::time_point now);
  void stop();
  // Goodbyes that have not arrived yet.
  [[nodiscard]] bool lingering() const noexcept { return !_lingering.empty(); }

 private:
  // What comes over one connection.
  class StreamHandler;
  struct Lingering {
    std::unique_ptr<Stream> stream;
    Clock::time_point deadline;
  };

  void on_message(ReaderConnection& connection, MessageId message, BytesView body);
  void on_challenge(ReaderConnection& connection, BytesView body);
  void on_welcome(ReaderConnection& connection, BytesView body);
  void on_refuse(ReaderConnection& connection, BytesView body);
  void on_proof(ReaderConnection& connection, BytesView body);
  void serve(const std::shared_ptr<ReaderConnection>& connection);
  void lose(ReaderConnection& connection, const Error& why);
  void renew(ReaderConnection& connection, LeaseRef lease, ReaderConnection::Hold& hold, Clock::time_point now);

  const std::uint64_t _incarnation;
  const std::string _name;
  std::shared_ptr<Counters> _counters;
  EventThread* _event_thread = nullptr;
  bool _stopped = false;
  std::unordered_set<std::shared_ptr<ReaderConnection>> _connections;
  std::vector<std::shared_ptr<ReaderConnection>> _lost;  // let go outside their streams' callbacks
  std::list<Lingering> _lingering;                       // until the owner has heard everything
};

// One connection of a session, and whoever takes commands for it.
struct ConnectionHandle {
  std::shared_ptr<ReaderConnection> connection;
  std::shared_ptr<CommandQueue> commands;
  ReaderSessions* reader = nullptr;  // touched only by commands, which run while it lives

  // Has the reader do this to the connection, on its thread; false once that ended.
  template <class Method, class... Arguments>
  bool post(Method method, Arguments... arguments) const {
    return commands->post([to = *this, method, ... arguments = std::move(arguments)] {
      (to.reader->*method)(*to.connection, arguments...);
    });
  }
};

}  // namespace kvdirect
