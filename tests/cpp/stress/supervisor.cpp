// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "supervisor.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <thread>

namespace kvdirect::stress {

namespace {

// How long processes may take to close their engines once the run is over.
constexpr auto last_patience = 3 * patience;

}  // namespace

Supervisor::Supervisor(std::filesystem::path directory, unsigned processes, std::uint64_t seed)
    : _directory(std::move(directory)), _page(Page::map(_directory / "page")), _dice(seed), _processes(processes) {}

void Supervisor::start(unsigned number) {
  std::vector<std::string> words{
      "kvdirect_stress",           "--process", _directory, std::to_string(number), std::to_string(_processes.size()),
      std::to_string(_dice.seed())};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int failed = posix_spawn(&_processes[number], "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
  if (failed == 0) return;
  _processes[number] = 0;
  Tally::fault(_page.tally.unexpected, "process " + std::to_string(number) + " cannot be started");
}

void Supervisor::run(Clock::time_point until) {
  for (unsigned number = 0; number < _processes.size(); ++number) start(number);
  auto next_kill = Clock::now() + _dice.seconds(2, 4);
  while (Clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    notice_ends();
    if (std::ranges::count(_processes, 0) > 0) break;
    if (Clock::now() < next_kill) continue;
    kill_one();
    next_kill = Clock::now() + _dice.seconds(2, 4);
  }
  end_all();
}

void Supervisor::notice_ends() {
  for (pid_t& pid : _processes) {
    int status = 0;
    if (pid == 0 || waitpid(pid, &status, WNOHANG) != pid) continue;
    if (!_page.over || status != 0) {
      const std::string how = WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                                  : "status " + std::to_string(WEXITSTATUS(status));
      Tally::fault(_page.tally.unexpected, "process " + std::to_string(pid) + " ended with " + how);
    }
    pid = 0;
  }
}

void Supervisor::kill_one() {
  const auto number = static_cast<unsigned>(_dice.below(_processes.size()));
  pid_t& pid = _processes[number];
  int status = 0;
  kill(pid, SIGKILL);
  if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
    Tally::fault(_page.tally.unexpected, "process " + std::to_string(pid) + " had ended before it was killed");
  }
  ++_page.tally.kills;
  start(number);
}

void Supervisor::end_all() {
  _page.over = true;
  const auto deadline = Clock::now() + last_patience;
  while (std::ranges::count(_processes, 0) < std::ssize(_processes) && Clock::now() < deadline) {
    notice_ends();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  for (const pid_t pid : _processes) {
    if (pid == 0) continue;
    Tally::fault(_page.tally.unexpected, "process " + std::to_string(pid) + " does not end");
    kill(pid, SIGABRT);  // a sanitizer prints a stack
    std::this_thread::sleep_for(std::chrono::seconds(2));
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
}

}  // namespace kvdirect::stress
