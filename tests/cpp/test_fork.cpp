// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "base/fd.h"
#include "check.h"
#include "memory/shared_memory.h"

namespace kvdirect {
namespace {

bool is_a(int fd, mode_t type) {
  struct stat status{};
  return fstat(fd, &status) == 0 && (status.st_mode & S_IFMT) == type;
}

TEST(a_forked_child_has_dev_null_for_a_socket_and_keeps_shared_memory) {
  std::array<int, 2> ends{};
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
  const Fd ours(ends[0]);
  const Fd theirs(ends[1]);
  Fd closed(dup(ends[0]));
  const int reused = closed.get();
  closed.reset();
  CHECK(dup2(STDERR_FILENO, reused) == reused);  // what has its number now is nobody's to take
  const SharedMemory memory(4096);
  const pid_t child = fork();
  if (child == 0) {
    const bool dropped = is_a(ends[0], S_IFCHR) && (fcntl(ends[0], F_GETFD) & FD_CLOEXEC) != 0;
    const bool kept = is_a(memory.fd(), S_IFREG) && fcntl(reused, F_GETFD) == 0;
    _exit(dropped && kept ? 0 : 1);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  close(reused);
  CHECK(is_a(ends[0], S_IFSOCK));
}

}  // namespace
}  // namespace kvdirect
