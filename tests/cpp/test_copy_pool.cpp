// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "check.h"
#include "lanes/copy_pool.h"
#include "net/event_thread.h"

namespace kvdirect {
namespace {

using namespace std::chrono_literals;

// Counts how often somebody looks at it, and is finished then.
struct Looked final : CopyPool::Task {
  explicit Looked(std::atomic<int>& counter) : looks(counter) {}
  std::optional<CopyPool::Clock::time_point> step() noexcept override {
    ++looks;
    return std::nullopt;
  }
  std::atomic<int>& looks;
};

bool comes_to(const std::atomic<int>& counter, int wanted) {
  for (int i = 0; i < 1000 && counter != wanted; ++i) std::this_thread::sleep_for(5ms);
  return counter == wanted;
}

// 0: refused as an error; 1: not refused; 2: refused otherwise. `start`: two threads or more.
template <class Start>
int without_threads(const Start& start) {
  // Root is not held to the limit. Another user has no other processes here, so that the first thread still starts.
  constexpr uid_t someone = 54321;
  if (geteuid() == 0 && setuid(someone) != 0) return 3;
  const rlimit limit{geteuid() == someone ? 2U : 0U, geteuid() == someone ? 2U : 0U};
  if (setrlimit(RLIMIT_NPROC, &limit) != 0) return 3;
  try {
    start();
  } catch (const Error& error) {
    return error.code() == Errc::transport ? 0 : 2;
  } catch (...) {
    return 2;
  }
  return 1;
}

int start_without_threads() {
  return without_threads([] { const CopyPool pool(8); });
}

// Those of an engine that take what happens.
int start_event_threads() {
  return without_threads([] {
    const auto make = [] {
      EventThread::Callbacks callbacks{.start = [](EventThread&) {},
                                       .poll = [] { return false; },
                                       .tick = [](auto) { return EventThread::Clock::time_point::max(); },
                                       .stop = [] {},
                                       .lingering = [] { return false; }};
      return std::make_unique<EventThread>(EventThread::Settings{"test", "kvd-test", nullptr}, std::move(callbacks));
    };
    const auto first = make();
    const auto second = make();
  });
}

TEST(a_shortage_of_threads_is_an_error_and_not_the_end_of_the_process) {
  const pid_t child = fork();
  if (child == 0) _exit(start_without_threads());
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST(an_event_thread_that_cannot_be_had_is_an_error_like_others) {
  const pid_t child = fork();
  if (child == 0) _exit(start_event_threads());
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(a_nudge_makes_one_task_due_and_no_other) {
  std::atomic<int> others = 0;
  std::atomic<int> nudged = 0;
  CopyPool pool(2);
  const auto later = CopyPool::Clock::now() + 1h;
  for (int i = 0; i < 100; ++i) CHECK(pool.submit(std::make_shared<Looked>(others), later));
  const auto task = std::make_shared<Looked>(nudged);
  CHECK(pool.submit(task, later));
  pool.nudge(*task);
  CHECK(comes_to(nudged, 1));
  // What was made due with it would be looked at by the same threads before long.
  std::this_thread::sleep_for(20ms);
  CHECK(others == 0);
  pool.stop();
  CHECK(others == 100);
}

// Holds the thread that steps it until it is let go.
struct Held final : CopyPool::Task {
  std::optional<CopyPool::Clock::time_point> step() noexcept override {
    holds = true;
    while (!let_go) std::this_thread::sleep_for(1ms);
    return std::nullopt;
  }
  std::atomic<bool> holds{false};
  std::atomic<bool> let_go{false};
};

// Says which thread stepped it, so often until it is finished.
struct Stepped final : CopyPool::Task {
  std::optional<CopyPool::Clock::time_point> step() noexcept override {
    by = std::this_thread::get_id();
    return ++steps < 3 ? std::optional(CopyPool::Clock::now()) : std::nullopt;
  }
  std::atomic<std::thread::id> by;
  std::atomic<int> steps{0};
};

TEST(who_waits_for_a_task_steps_it_and_no_other_while_the_pools_threads_are_busy) {
  CopyPool pool(1);
  const auto held = std::make_shared<Held>();
  CHECK(pool.submit(held, {}));
  while (!held->holds) std::this_thread::sleep_for(1ms);
  std::atomic<int> others = 0;
  const auto other = std::make_shared<Looked>(others);
  const auto wanted = std::make_shared<Stepped>();
  CHECK(pool.submit(other, {}));
  CHECK(pool.submit(wanted, {}));
  CHECK(!pool.help(*held));  // somebody has it
  int helped = 0;
  while (pool.help(*wanted)) ++helped;
  CHECK(helped == 3);
  CHECK(wanted->steps == 3);
  CHECK(wanted->by.load() == std::this_thread::get_id());
  CHECK(others == 0);
  held->let_go = true;
  CHECK(comes_to(others, 1));
  pool.stop();
  CHECK(!pool.help(*wanted));
}

TEST(a_pool_that_stops_waits_for_who_helps) {
  CopyPool pool(1);
  const auto busy = std::make_shared<Held>();
  const auto held = std::make_shared<Held>();
  CHECK(pool.submit(busy, {}));
  while (!busy->holds) std::this_thread::sleep_for(1ms);
  CHECK(pool.submit(held, {}));
  std::thread helper([&] { CHECK(pool.help(*held)); });
  while (!held->holds) std::this_thread::sleep_for(1ms);
  busy->let_go = true;
  std::atomic<bool> stopped = false;
  std::thread stopper([&] {
    pool.stop();
    stopped = true;
  });
  std::this_thread::sleep_for(50ms);
  CHECK(!stopped);
  held->let_go = true;
  helper.join();
  stopper.join();
  CHECK(stopped);
}

TEST(a_task_that_is_due_earlier_than_those_that_wait_is_not_kept_waiting) {
  std::atomic<int> late = 0;
  std::atomic<int> early = 0;
  for (const unsigned threads : {1U, 2U, 3U}) {
    CopyPool pool(threads);
    for (int i = 0; i < 20; ++i) {
      CHECK(pool.submit(std::make_shared<Looked>(late), CopyPool::Clock::now() + 1h));
      CHECK(pool.submit(std::make_shared<Looked>(early), CopyPool::Clock::now() + 1ms));
      CHECK(comes_to(early, i + 1));
    }
    CHECK(late == 0);
    pool.stop();
    CHECK(late == 20);
    late = early = 0;
  }
}

}  // namespace
}  // namespace kvdirect
