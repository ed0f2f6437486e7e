// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "process.h"

namespace kvdirect::stress {

// Starts a run's processes, kills one now and then, starts another in its place, and ends them all.
class Supervisor {
 public:
  Supervisor(std::filesystem::path directory, unsigned processes, std::uint64_t seed);

  void run(Clock::time_point until);

 private:
  // A new process, by exec: no fork of a process with threads lives on here.
  void start(unsigned number);
  // One that ended though nobody killed it has found something.
  void notice_ends();
  void kill_one();
  void end_all();

  const std::filesystem::path _directory;
  Page& _page;
  Dice _dice;
  std::vector<pid_t> _processes;  // by number; 0: ended
};

}  // namespace kvdirect::stress
