// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "net/unix_socket.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/non_copyable.h"
#include "net/readiness.h"
#include "wire/messages.h"

namespace kvdirect {

namespace {

constexpr std::size_t most_descriptors = limits::shared_memories + 1;

// Of an owner's socket, which serves several lanes: they are named by whoever asked for it.
Error refused(const std::string& what, int status, const std::string& hint = {}) {
  return {Errc::lane, what, {.status = strerror(status), .hint = hint}};
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() > limits::unix_path) {
    throw Error(Errc::lane, "the path " + path + " is too long for a unix socket",
                {.hint = "choose a shorter shm_directory"});
  }
  std::ranges::copy(path, static_cast<char*>(address.sun_path));
  return address;
}

// One byte, and room for the control message that carries descriptors with it.
struct FdMessage : NonCopyable {
  static constexpr std::size_t most_control = CMSG_SPACE(sizeof(int) * most_descriptors);

  char byte = 1;
  iovec body{&byte, 1};
  alignas(cmsghdr) std::array<char, most_control> control{};
  msghdr message{};

  explicit FdMessage(std::size_t control_bytes) {
    message.msg_iov = &body;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control_bytes;
  }
};

}  // namespace

void make_private_directory(const std::string& path) {
  if (mkdir(path.c_str(), S_IRWXU) != 0 && errno != EEXIST) {
    throw refused("cannot make the directory " + path, errno, "choose another shm_directory");
  }
  struct stat status{};
  if (lstat(path.c_str(), &status) != 0) throw refused("cannot look at the directory " + path, errno);
  const bool ours =
      S_ISDIR(status.st_mode) && status.st_uid == geteuid() && (status.st_mode & (S_IRWXG | S_IRWXO)) == 0;
  if (ours) return;
  throw Error(Errc::lane, path + " is not a directory that only this user may enter",
              {.hint = "make it so (mode 0700), or choose another shm_directory"});
}

void sweep_sockets(const std::string& directory) {
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(directory.c_str()), &closedir);
  if (!entries) return;
  while (const dirent* entry = readdir(entries.get())) {
    const std::string path = directory + "/" + static_cast<const char*>(entry->d_name);
    if (!path.ends_with(".sock") || path.size() > limits::unix_path) continue;
    const sockaddr_un address = address_of(path);
    const Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return;
    const int status = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    if (status != 0 && errno == ECONNREFUSED) unlink(path.c_str());
  }
}

Fd listen_at(const std::string& path) {
  static_cast<void>(address_of(path));
  // Between bind and listen a socket refuses connections, as one of a killed owner does: a sweep must not see it then.
  const std::string unready = path.substr(0, path.size() - 1);
  const sockaddr_un address = address_of(unready);
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw refused("cannot listen at " + path, errno);
  }
  if (listen(fd.get(), SOMAXCONN) != 0 || rename(unready.c_str(), path.c_str()) != 0) {
    const int status = errno;
    unlink(unready.c_str());
    throw refused("cannot listen at " + path, status);
  }
  return fd;
}

Fd connect_at(const std::string& path) {
  const sockaddr_un address = address_of(path);
  // Connecting to a unix socket is at once or not at all, unless the backlog is full: then it would wait for ever.
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw refused("the owner's socket " + path + " cannot be reached from here", errno,
                  "containers must share shm_directory, and run as the same user");
  }
  return fd;
}

bool same_user(int fd) noexcept {
  ucred peer{};
  socklen_t length = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == geteuid();
}

bool send_descriptors(int fd, std::span<const int> descriptors) noexcept {
  if (descriptors.size() > most_descriptors) return false;
  FdMessage fd_message(CMSG_SPACE(descriptors.size_bytes()));
  cmsghdr* header = CMSG_FIRSTHDR(&fd_message.message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  return sendmsg(fd, &fd_message.message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

std::vector<Fd> receive_descriptors(int fd, std::size_t count, std::chrono::steady_clock::time_point deadline) {
  if (!ready_by(fd, POLLIN, deadline)) {
    throw refused("the owner did not hand over its memory in time", ETIMEDOUT);
  }
  FdMessage fd_message(FdMessage::most_control);
  const ssize_t got = recvmsg(fd, &fd_message.message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  const int status = got < 0 ? errno : EPROTO;
  // Whatever came is ours to close.
  std::vector<Fd> descriptors;
  for (cmsghdr* header = CMSG_FIRSTHDR(&fd_message.message); got >= 0 && header != nullptr;
       header = CMSG_NXTHDR(&fd_message.message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t bytes = header->cmsg_len - CMSG_LEN(0);
    for (std::size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(header) + at, sizeof descriptor);
      descriptors.emplace_back(descriptor);
    }
  }
  if (got == 1 && descriptors.size() == count) return descriptors;
  throw refused(got == 0 ? "the owner did not accept our secret" : "the owner did not hand over its memory", status);
}

}  // namespace kvdirect
