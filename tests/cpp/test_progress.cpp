// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <future>
#include <string>
#include <vector>

#include "check.h"
#include "progress.h"

namespace kvdirect {

namespace {

// A thread whose end is written down among the commands that it ran.
struct Worker {
  std::vector<std::string> said;
  Progress progress{{.name = "test", .thread = "kvd-test"},
                    {.start = [](Progress&) {},
                     .pump = [] { return false; },
                     .tick = [](Progress::Clock::time_point) { return Progress::Clock::time_point::max(); },
                     .stop = [this] { said.emplace_back("end"); },
                     .parting = [] { return false; }}};
};

}  // namespace

TEST(what_was_posted_before_the_stop_is_run_before_the_end) {
  Worker worker;
  std::promise<void> begun;
  std::promise<void> go_on;
  worker.progress.post([&begun, wait = go_on.get_future().share()] {
    begun.set_value();
    wait.get();
  });
  begun.get_future().get();
  worker.progress.post([&worker] { worker.said.emplace_back("last word"); });
  worker.progress.ask_to_stop();
  go_on.set_value();
  worker.progress.stop();
  CHECK((worker.said == std::vector<std::string>{"last word", "end"}));
}

}  // namespace kvdirect
