// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/counters.h"
#include "message/pull_server.h"
#include "net/event_thread.h"
#include "net/listener.h"
#include "net/stream.h"
#include "net/tcp_socket.h"
#include "session/descriptor_share.h"
#include "session/notes.h"
#include "wire/messages.h"

namespace kvdirect {

struct OwnerConnection;

// The owner's half of an engine on one of its threads: obeys what admitted readers say. The one on the control thread
// also listens, admits, and hands the further connections of a session to its siblings on other threads.
class OwnerSessions {
 public:
  using Clock = std::chrono::steady_clock;
  // For a stranger's hello and answer, and for a reader that was refused to go.
  static constexpr auto patience = std::chrono::seconds(10);

  struct Sibling {
    std::shared_ptr<CommandQueue> commands;
    OwnerSessions* owner = nullptr;  // touched only by commands, which run while it lives
  };

  struct Options {
    std::uint64_t incarnation = 0;
    Bytes admission;                // the secret
    bool first = true;              // listens, and has all sessions
    std::vector<Sibling> siblings;  // of the first: who takes streams 1, 2, ...
    std::uint64_t segment_bytes = 0;
    std::shared_ptr<LeaseExtents> extents;                              // one for all of an engine
    std::shared_ptr<RunBudget> budget = std::make_shared<RunBudget>();  // likewise
    std::shared_ptr<Notes> notes = std::make_shared<Notes>();           // of the first
    // What a reader on this host needs; nullopt where no lane reads this process directly. The nonce is per session.
    std::function<std::optional<HostAccess>()> host;
    // What a reader with an RDMA device needs; nullopt without one.
    std::function<std::optional<RdmaAccess>()> rdma;
    // What a reader on this host needs to map our memory; nullopt where it cannot be mapped.
    std::function<std::optional<ShmAccess>()> shm;
    std::function<std::optional<CudaAccess>()> cuda;
    // Of the two before: the session that was given this secret is over.
    std::function<void(const Token& secret)> forget_secret;
    std::function<std::shared_ptr<const Published>()> published;
  };

  OwnerSessions(Options options, std::shared_ptr<LeaseTable> leases, std::shared_ptr<Counters> counters);
  OwnerSessions(const OwnerSessions&) = delete;
  OwnerSessions& operator=(const OwnerSessions&) = delete;
  ~OwnerSessions();

  // Everything below runs on its thread. `listen`: a network device; of no meaning but to the first.
  void start(EventThread& thread, const std::string& listen);
  bool poll();
  Clock::time_point tick(Clock::time_point now);
  void stop();
  // A connection of an admitted session, which a sibling has; `on_lost` is called when it ends.
  void adopt(Fd fd, const std::string& reader, const Token& nonce, const Bytes& welcome,
             const std::function<void()>& on_lost);
  // A session is over, as its other connections are.
  void end(const Token& nonce);
  // Where readers connect; once started.
  [[nodiscard]] const TcpAddress& address() const noexcept { return _address; }

 private:
  friend struct OwnerConnection;

  void receive_connection(Fd fd);
  void make_room_for_one();
  void serve(OwnerConnection& connection);
  void on_message(OwnerConnection& connection, MessageId message, BytesView body);
  void hear_unadmitted(OwnerConnection& connection, MessageId message, BytesView body);
  void on_hello(OwnerConnection& connection, BytesView body);
  void on_answer(OwnerConnection& connection, BytesView body);
  void on_probe(OwnerConnection& connection, BytesView body);
  void on_pull(OwnerConnection& connection, BytesView body, PullServer::Wanted wanted);
  void on_cancel(OwnerConnection& connection, BytesView body);
  void on_renew(OwnerConnection& connection, BytesView body);
  void on_complete(OwnerConnection& connection, BytesView body);
  void on_note(OwnerConnection& connection, BytesView body);
  // Of who said this hello.
  [[nodiscard]] Bytes key_of(const Hello& hello) const;
  [[nodiscard]] Bytes sealed(const OwnerConnection& connection, const Hello& hello, const Welcome& welcome) const;
  void admit(OwnerConnection& connection, const Hello& hello);
  // For a session more. Where there is none, whoever has too many loses one; why not, if nobody has.
  [[nodiscard]] std::optional<Refuse> make_room_for(const OwnerConnection& newcomer);
  [[nodiscard]] Refuse no_room();
  // The newest session of the reader that has most, of the identity that has most; null if that is the newcomer.
  [[nodiscard]] OwnerConnection* excess_over(const OwnerConnection& newcomer);
  void refuse(OwnerConnection& connection, const Refuse& refuse);
  void look_again();
  void schedule(OwnerConnection& connection);
  [[nodiscard]] std::optional<Refuse> objection(const Hello& hello) const;
  [[nodiscard]] OwnerConnection* find(const Token& nonce);
  // Promises the connection to the sibling it is for, or says why not.
  [[nodiscard]] std::optional<Refuse> join(OwnerConnection& stream, const Hello& hello);
  void hand_over(OwnerConnection& stream);
  // The session's other connections go with this one.
  void end_streams(OwnerConnection& connection);
  void lose(OwnerConnection& connection);
  bool drop_lost();

  Options _options;
  std::shared_ptr<LeaseTable> _leases;
  std::shared_ptr<Counters> _counters;
  ServeContext _context;
  EventThread* _event_thread = nullptr;
  TcpAddress _address;
  Listener _listener;
  std::list<std::unique_ptr<OwnerConnection>> _connections;
  std::deque<OwnerConnection*> _in_turn;  // those with something to send, who is next first
  std::size_t _unadmitted = 0;
  std::optional<DescriptorShare> _share;  // the first's
  bool _any_lost = false;
  bool _stopped = false;
};

}  // namespace kvdirect
