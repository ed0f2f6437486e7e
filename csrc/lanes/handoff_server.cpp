// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/handoff_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "net/readiness.h"
#include "net/unix_socket.h"
#include "session/descriptor_share.h"

namespace kvdirect {

namespace {

// A reader shows its secret as soon as it has one.
constexpr auto secret_life = std::chrono::seconds(60);
constexpr auto patience = std::chrono::seconds(5);
constexpr std::size_t max_secrets = 4096;

// The other end closed it, or its process ended.
bool hung_up(int fd) noexcept {
  std::array<char, 64> nonsense{};
  const ssize_t got = recv(fd, nonsense.data(), nonsense.size(), MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

std::string socket_path(const std::string& directory, std::uint64_t incarnation) {
  std::array<char, 17> name{};
  std::snprintf(name.data(), name.size(), "%016llx", static_cast<unsigned long long>(incarnation));
  return directory + "/" + name.data() + ".sock";
}

}  // namespace

HandoffServer::HandoffServer(const std::string& directory, std::uint64_t incarnation)
    : _path(socket_path(directory, incarnation)), _pid(getpid()) {
  make_private_directory(directory);
  sweep_sockets(directory);
  _socket = listen_at(_path);
}

HandoffServer::~HandoffServer() {
  if (_open && getpid() == _pid) unlink(_path.c_str());
}

void HandoffServer::start(EventThread& thread) {
  _event_thread = &thread;
  _listener.start(thread.reactor(), std::move(_socket), [this](Fd fd) { receive(std::move(fd)); });
}

Token HandoffServer::issue_secret(DescriptorSource descriptor_source, bool maps) {
  if (_secrets.size() == max_secrets) _secrets.pop_front();
  _secrets.push_back({random_token(), Clock::now() + secret_life, std::move(descriptor_source), maps});
  return _secrets.back().token;
}

void HandoffServer::forget_secret(const Token& secret) {
  std::erase_if(_secrets, [&](const Secret& known) { return same_secret(known.token, secret); });
}

std::optional<HandoffServer::Secret> HandoffServer::take_secret(const Token& token) {
  const auto found =
      std::ranges::find_if(_secrets, [&](const Secret& secret) { return same_secret(secret.token, token); });
  if (found == _secrets.end() || found->good_until < Clock::now()) return std::nullopt;
  Secret secret = std::move(*found);
  _secrets.erase(found);
  return secret;
}

void HandoffServer::receive(Fd fd) {
  if (_clients.size() >= DescriptorShare::handoffs() || !same_user(fd.get())) return;
  const int number = fd.get();
  // Known before it is watched: one that cannot be watched is dropped like one that says nothing.
  _clients.push_back({std::move(fd), Clock::now() + patience});
  _event_thread->reactor().add(number, [this, number](std::uint32_t) { attend(number); });
}

void HandoffServer::attend(int fd) {
  const auto client = std::ranges::find_if(_clients, [fd](const Client& known) { return known.fd.get() == fd; });
  if (client == _clients.end()) return;
  Token token{};
  const ssize_t got = recv(fd, token.data(), token.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  // A secret comes in one piece, and once; anything else, the end included, ends it.
  const bool whole = !client->served && got == static_cast<ssize_t>(token.size());
  const auto secret = whole ? take_secret(token) : std::nullopt;
  client->served = secret && send_descriptors(fd, secret->descriptor_source());
  client->maps = client->served && secret->maps;
  if (!client->served) drop(client);
}

void HandoffServer::drop(std::list<Client>::iterator client) {
  _event_thread->reactor().remove(client->fd.get());
  _clients.erase(client);
}

HandoffServer::Clock::time_point HandoffServer::tick(Clock::time_point now) {
  _listener.tick();
  while (!_secrets.empty() && _secrets.front().good_until < now) _secrets.pop_front();
  auto next = Clock::time_point::max();
  for (auto client = _clients.begin(); client != _clients.end();) {
    const auto current = client++;
    if (current->served) continue;
    if (current->patient_until <= now) {
      drop(current);
    } else {
      next = std::min(next, current->patient_until);
    }
  }
  return next;
}

void HandoffServer::stop() {
  _listener.stop();
  _open = false;
  unlink(_path.c_str());
  const std::lock_guard lock(_mutex);
  for (Client& client : _clients) {
    _event_thread->reactor().remove(client.fd.get());
    if (!client.maps) continue;
    shutdown(client.fd.get(), SHUT_WR);
    _mapping.push_back(std::move(client.fd));
  }
  _clients.clear();
}

std::size_t HandoffServer::mapping(Clock::time_point until) {
  const std::lock_guard lock(_mutex);
  while (true) {
    std::erase_if(_mapping, [](const Fd& fd) { return hung_up(fd.get()); });
    const auto now = Clock::now();
    if (_mapping.empty() || now >= until) return _mapping.size();
    // Each in its turn: all must go.
    static_cast<void>(ready_by(_mapping.front().get(), POLLIN, until));
  }
}

}  // namespace kvdirect
