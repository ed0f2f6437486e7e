// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/handoff_server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "net/unix_socket.h"

namespace kvdirect {

namespace {

// A reader shows its ticket as soon as it has one.
constexpr auto ticket_life = std::chrono::seconds(60);
constexpr auto patience = std::chrono::seconds(5);
constexpr std::size_t max_tickets = 4096;
constexpr std::size_t max_visitors = 4096;

std::string socket_path(const std::string& directory, std::uint64_t incarnation) {
  std::array<char, 17> name{};
  std::snprintf(name.data(), name.size(), "%016llx", static_cast<unsigned long long>(incarnation));
  return directory + "/" + name.data() + ".sock";
}

}  // namespace

ShmDoor::ShmDoor(const std::string& directory, std::uint64_t incarnation)
    : _path(socket_path(directory, incarnation)), _pid(getpid()) {
  make_private_directory(directory);
  sweep_sockets(directory);
  _socket = listen_at(_path);
}

ShmDoor::~ShmDoor() {
  if (_open && getpid() == _pid) unlink(_path.c_str());
}

void ShmDoor::start(EventThread& thread) {
  _event_thread = &thread;
  _listener.start(thread.reactor(), std::move(_socket), [this](Fd fd) { receive(std::move(fd)); });
}

Token ShmDoor::issue_ticket(Shown shown) {
  if (_tickets.size() == max_tickets) _tickets.pop_front();
  _tickets.push_back({random_token(), Clock::now() + ticket_life, std::move(shown)});
  return _tickets.back().token;
}

std::optional<ShmDoor::Ticket> ShmDoor::take_ticket(const Token& token) {
  const auto found =
      std::ranges::find_if(_tickets, [&](const Ticket& ticket) { return same_secret(ticket.token, token); });
  if (found == _tickets.end() || found->good_until < Clock::now()) return std::nullopt;
  Ticket ticket = std::move(*found);
  _tickets.erase(found);
  return ticket;
}

void ShmDoor::receive(Fd fd) {
  if (_visitors.size() >= max_visitors || !same_user(fd.get())) return;
  const int number = fd.get();
  // Known before it is watched: one that cannot be watched is dropped like one that says nothing.
  _visitors.push_back({std::move(fd), Clock::now() + patience});
  _event_thread->reactor().add(number, [this, number](std::uint32_t) { attend(number); });
}

void ShmDoor::attend(int fd) {
  const auto visitor = std::ranges::find_if(_visitors, [fd](const Visitor& known) { return known.fd.get() == fd; });
  if (visitor == _visitors.end()) return;
  Token token{};
  const ssize_t got = recv(fd, token.data(), token.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  // A ticket comes in one piece, and once; anything else, the end included, ends the visit.
  const bool whole = !visitor->served && got == static_cast<ssize_t>(token.size());
  const auto ticket = whole ? take_ticket(token) : std::nullopt;
  visitor->served = ticket && send_descriptors(fd, ticket->shown());
  if (!visitor->served) drop(visitor);
}

void ShmDoor::drop(std::list<Visitor>::iterator visitor) {
  _event_thread->reactor().remove(visitor->fd.get());
  _visitors.erase(visitor);
}

ShmDoor::Clock::time_point ShmDoor::tick(Clock::time_point now) {
  _listener.tick();
  while (!_tickets.empty() && _tickets.front().good_until < now) _tickets.pop_front();
  auto next = Clock::time_point::max();
  for (auto visitor = _visitors.begin(); visitor != _visitors.end();) {
    const auto current = visitor++;
    if (current->served) continue;
    if (current->patient_until <= now) {
      drop(current);
    } else {
      next = std::min(next, current->patient_until);
    }
  }
  return next;
}

void ShmDoor::stop() {
  _listener.stop();
  _open = false;
  unlink(_path.c_str());
  while (!_visitors.empty()) drop(_visitors.begin());
}

}  // namespace kvdirect
