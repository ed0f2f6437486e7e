// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "net/reactor.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace kvdirect {

namespace {

constexpr std::int64_t longest_sleep_ms = 10'000;

}  // namespace

Reactor::Reactor() : _epoll(epoll_create1(EPOLL_CLOEXEC)) {
  if (!_epoll) throw kernel_refused("epoll_create1");
}

void Reactor::add(int fd, Handler handler) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(_epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw kernel_refused("epoll_ctl");
  _handlers[fd] = std::make_shared<Handler>(std::move(handler));
}

void Reactor::want_write(int fd, bool on) noexcept {
  epoll_event event{};
  event.events = on ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.fd = fd;
  epoll_ctl(_epoll.get(), EPOLL_CTL_MOD, fd, &event);
}

void Reactor::remove(int fd) noexcept {
  epoll_ctl(_epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
  _handlers.erase(fd);
}

bool Reactor::turn(Clock::time_point until) {
  // Rounded up: waking early would only go round again.
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  std::array<epoll_event, 64> events{};
  const int count = epoll_wait(_epoll.get(), events.data(), static_cast<int>(events.size()),
                               static_cast<int>(std::clamp<std::int64_t>(left, 0, longest_sleep_ms)));
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events.at(static_cast<std::size_t>(i));
    const auto found = _handlers.find(event.data.fd);
    if (found == _handlers.end()) continue;
    const auto handler = found->second;
    (*handler)(event.events);
  }
  return count > 0;
}

}  // namespace kvdirect
