// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/fork.h"

namespace kvdirect {

// Remembers the process that made something. A fork copies the object and not its threads.
class ProcessGuard {
 public:
  [[nodiscard]] bool here() const noexcept { return generation() == _generation; }
  [[nodiscard]] pid_t pid() const noexcept { return _pid; }

  // Throws Error(closed) in a fork.
  void check(const char* operation) const {
    if (here()) return;
    throw Error(Errc::closed, "the engine belongs to process " + std::to_string(_pid) + ", and this is a fork of it",
                {.operation = operation, .hint = "make an engine in this process, or start processes with spawn"});
  }

 private:
  std::uint32_t _generation = generation();
  pid_t _pid = known_pid;
};

}  // namespace kvdirect
