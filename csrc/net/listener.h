// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <functional>

#include "base/fd.h"
#include "net/reactor.h"

namespace kvdirect {

// Lets in whoever connects to a listening socket. Out of descriptors it lets nobody in until the next tick, instead of
// being told again and again of somebody it cannot let in. One thread's.
class Listener {
 public:
  // Gets each connection, non-blocking. Whom it throws at is let go.
  using Guest = std::function<void(Fd fd)>;

  // Throws Error(transport).
  void start(Reactor& reactor, Fd fd, Guest guest);
  // At regular times: listens again after a shortage.
  void tick();
  void stop() noexcept;

 private:
  void watch();
  void accept_some();

  Reactor* _reactor = nullptr;
  Fd _fd;
  Guest _guest;
  bool _deaf = false;
};

}  // namespace kvdirect
