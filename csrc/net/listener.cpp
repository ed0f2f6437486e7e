// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "net/listener.h"

#include <sys/socket.h>

#include <cerrno>
#include <exception>
#include <utility>

namespace kvdirect {

namespace {
constexpr int accepts_at_once = 64;
}

void Listener::start(Reactor& reactor, Fd fd, OnAccept on_accept) {
  _reactor = &reactor;
  _fd = std::move(fd);
  _on_accept = std::move(on_accept);
  watch();
}

void Listener::watch() {
  _reactor->add(_fd.get(), [this](std::uint32_t) { accept_some(); });
}

void Listener::accept_some() {
  for (int i = 0; i < accepts_at_once; ++i) {
    Fd fd(accept4(_fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      const bool short_of_something = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
      if (short_of_something && !std::exchange(_accept_paused, true)) _reactor->remove(_fd.get());
      return;
    }
    try {
      _on_accept(std::move(fd));
    } catch (const std::exception&) {  // out of memory or of the kernel's watches; others must not suffer from it
    }
  }
}

void Listener::tick() {
  if (!_accept_paused) return;
  try {
    watch();
    _accept_paused = false;
  } catch (const std::exception&) {  // the next tick tries again
  }
}

void Listener::stop() noexcept {
  if (!_fd) return;
  if (!_accept_paused) _reactor->remove(_fd.get());
  _fd.reset();
}

}  // namespace kvdirect
