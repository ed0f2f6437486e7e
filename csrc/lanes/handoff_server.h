// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/non_copyable.h"
#include "net/event_thread.h"
#include "net/listener.h"
#include "wire/messages.h"

namespace kvdirect {

// Where an owner hands its control page, and what else a lane needs, to readers on the same host: a unix socket in a
// directory that only this user may enter. A client shows a secret, which a session gave it and which is good once;
// the connection then stays open, so that each end learns of the other's death. On the control thread, but for
// construction and destruction.
class HandoffServer : NonCopyable {
 public:
  using Clock = std::chrono::steady_clock;

  // The descriptors to hand over.
  using DescriptorSource = std::function<std::vector<int>()>;

  // Throws Error(lane).
  HandoffServer(const std::string& directory, std::uint64_t incarnation);
  // Takes the socket away if stop() did not, unless this is a fork.
  ~HandoffServer();

  [[nodiscard]] const std::string& path() const noexcept { return _path; }

  void start(EventThread& thread);
  // Who shows it is given the descriptors that `shown` then names. `maps`: and holds its connection for as long as it
  // has memory of ours mapped.
  [[nodiscard]] Token issue_secret(DescriptorSource descriptor_source, bool maps);
  // Its session is over.
  void forget_secret(const Token& secret);
  Clock::time_point tick(Clock::time_point now);
  // Those that map our memory are told, and their connections kept.
  void stop();
  // How many of those still hold them; waits until then for them to let go. Any thread, once stopped.
  [[nodiscard]] std::size_t mapping(Clock::time_point until);

 private:
  struct Client {
    Fd fd;
    Clock::time_point patient_until;
    bool served = false;
    bool maps = false;
  };
  void receive(Fd fd);
  void attend(int fd);
  struct Secret {
    Token token;
    Clock::time_point good_until;
    DescriptorSource descriptor_source;
    bool maps = false;
  };
  std::optional<Secret> take_secret(const Token& token);
  void drop(std::list<Client>::iterator client);

  std::string _path;
  std::int64_t _pid;
  Fd _socket;  // until it is listened to
  bool _open = true;
  Listener _listener;
  EventThread* _event_thread = nullptr;
  std::list<Client> _clients;
  std::deque<Secret> _secrets;  // the oldest first
  std::mutex _mutex;
  std::vector<Fd> _mapping;  // once stopped
};

}  // namespace kvdirect
