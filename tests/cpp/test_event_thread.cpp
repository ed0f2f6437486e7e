// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <chrono>
#include <future>
#include <new>
#include <string>
#include <vector>

#include "check.h"
#include "message/stripe.h"
#include "net/event_thread.h"
#include "net/listener.h"
#include "net/tcp_socket.h"

namespace kvdirect {

namespace {

// A thread whose end is written down among the commands that it ran.
struct Worker {
  std::vector<std::string> said;
  EventThread thread{{.name = "test", .thread = "kvd-test"},
                     {.start = [](EventThread&) {},
                      .poll = [] { return false; },
                      .tick = [](EventThread::Clock::time_point) { return EventThread::Clock::time_point::max(); },
                      .stop = [this] { said.emplace_back("end"); },
                      .lingering = [] { return false; }}};
};

}  // namespace

TEST(what_was_posted_before_the_stop_is_run_before_the_end) {
  Worker worker;
  std::promise<void> begun;
  std::promise<void> go_on;
  worker.thread.post([&begun, wait = go_on.get_future().share()] {
    begun.set_value();
    wait.get();
  });
  begun.get_future().get();
  worker.thread.post([&worker] { worker.said.emplace_back("last word"); });
  worker.thread.ask_to_stop();
  go_on.set_value();
  worker.thread.stop();
  CHECK((worker.said == std::vector<std::string>{"last word", "end"}));
}

TEST(a_command_that_throws_ends_the_stripe_it_had) {
  PullJob job;
  job.runs.push_back({.length = 10});
  const auto pull = std::make_shared<Pull>(std::move(job), std::make_shared<Counters>());
  Worker worker;
  for (const Stripe& stripe : Stripe::cut(pull, 1)) {
    worker.thread.post([stripe] { throw std::bad_alloc(); });
  }
  CHECK(pull->wait_quiet_until(Clock::now() + std::chrono::seconds(5)) && pull->done());
}

TEST(a_guest_that_cannot_be_received_costs_nobody_else) {
  TcpAddress address = TcpAddress::parse("127.0.0.1", 0);
  Fd socket = listen_on(address);
  std::vector<Fd> dialled;
  for (int i = 0; i < 3; ++i) dialled.push_back(connect_to(address, address, Clock::now() + std::chrono::seconds(5)));
  Reactor reactor;
  Listener listener;
  int guests = 0;
  listener.start(reactor, std::move(socket), [&guests](const Fd& /*fd*/) {
    if (guests++ == 0) throw Error(Errc::transport, "no watch is left");
  });
  for (int turn = 0; turn < 50 && guests < 3; ++turn) reactor.turn(Clock::now() + std::chrono::milliseconds(100));
  CHECK(guests == 3);
  listener.stop();
}

}  // namespace kvdirect
