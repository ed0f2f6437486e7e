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
  using OnAccept = std::function<void(Fd fd)>;

  // Throws Error(transport).
  void start(Reactor& reactor, Fd fd, OnAccept on_accept);
  // At regular times: listens again after a shortage.
  void tick();
  void stop() noexcept;

 private:
  void watch();
  void accept_some();

  Reactor* _reactor = nullptr;
  Fd _fd;
  OnAccept _on_accept;
  bool _accept_paused = false;
};

}  // namespace kvdirect
