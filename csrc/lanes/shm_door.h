// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "fd.h"
#include "listener.h"
#include "progress.h"
#include "protocol.h"

namespace kvdirect {

// Where an owner hands its shared memory to readers on the same host: a unix socket in a directory that only this user
// may enter. A visitor shows a ticket, which a session gave it and which is good once; the connection then stays open,
// so that each end learns of the other's death. On the control thread, but for construction and destruction.
class ShmDoor {
 public:
  using Clock = std::chrono::steady_clock;

  // `shown`: the descriptors to hand over. Throws Error(lane).
  ShmDoor(const std::string& directory, std::uint64_t incarnation, std::function<std::vector<int>()> shown);
  ShmDoor(const ShmDoor&) = delete;
  ShmDoor& operator=(const ShmDoor&) = delete;
  // Takes the socket away if stop() did not, unless this is a fork.
  ~ShmDoor();

  [[nodiscard]] const std::string& path() const noexcept { return _path; }

  void start(Progress& progress);
  [[nodiscard]] Token issue_ticket();
  Clock::time_point tick(Clock::time_point now);
  void stop();

 private:
  struct Visitor {
    Fd fd;
    Clock::time_point patient_until;
    bool served = false;
  };
  void receive(Fd fd);
  void attend(int fd);
  bool take_ticket(const Token& shown);
  void drop(std::list<Visitor>::iterator visitor);

  std::string _path;
  std::function<std::vector<int>()> _shown;
  std::int64_t _pid;
  Fd _socket;  // until it is listened to
  bool _open = true;
  Listener _listener;
  Progress* _progress = nullptr;
  std::list<Visitor> _visitors;
  std::deque<std::pair<Token, Clock::time_point>> _tickets;  // until when they are good, the oldest first
};

}  // namespace kvdirect
