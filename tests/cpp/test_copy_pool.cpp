// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "check.h"
#include "lanes/copy_pool.h"

namespace kvdirect {
namespace {

// 0: refused as an error; 1: not refused; 2: refused otherwise.
int start_without_threads() {
  // Root is not held to the limit. Another user has no other processes here, so that the first thread still starts.
  constexpr uid_t someone = 54321;
  if (geteuid() == 0 && setuid(someone) != 0) return 3;
  const rlimit limit{geteuid() == someone ? 2U : 0U, geteuid() == someone ? 2U : 0U};
  if (setrlimit(RLIMIT_NPROC, &limit) != 0) return 3;
  try {
    const CopyPool pool(8);
  } catch (const Error& error) {
    return error.code() == Errc::transport ? 0 : 2;
  } catch (...) {
    return 2;
  }
  return 1;
}

TEST(a_shortage_of_threads_is_an_error_and_not_the_end_of_the_process) {
  const pid_t child = fork();
  if (child == 0) _exit(start_without_threads());
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace kvdirect
