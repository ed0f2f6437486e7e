// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/message.h"

#include <algorithm>
#include <future>

namespace kvdirect {

namespace {
// Below this a second connection costs more than it gains.
constexpr std::uint64_t least_stripe = 1 << 20;
}  // namespace

LaneCapabilities MessageLane::capabilities() const noexcept { return {.permutes = true, .carries = &host_to_host}; }

void MessageLane::prove(Clock::time_point deadline) {
  const ConnectionHandle& first = _connections.front();
  const ReaderConnection& connection = *first.connection;
  const auto refuse = [](const std::string& why) { return Error(Errc::lane, why); };
  // Shared, because a command must be copyable.
  auto promise = std::make_shared<std::promise<Proof>>();
  auto answer = promise->get_future();
  const bool posted =
      first.commands->post([first, promise] { first.reader->probe(*first.connection, std::move(*promise)); });
  if (!posted) throw refuse("the engine was closed");
  if (answer.wait_until(deadline) != std::future_status::ready) throw refuse("the owner did not answer in time");
  const Proof proof = answer.get();
  if (proof.incarnation != connection.incarnation || !same_secret(proof.nonce, connection.welcome.nonce)) {
    throw refuse("somebody else answered");
  }
}

void MessageLane::submit(std::shared_ptr<Pull> pull) {
  pull->plan_rest();
  const auto most = std::clamp<std::uint64_t>(pull->job().bytes / least_stripe, 1, _connections.size());
  auto stripes = Stripe::cut(pull, static_cast<unsigned>(most));
  const std::vector<ConnectionHandle> used(_connections.begin(),
                                           _connections.begin() + static_cast<std::ptrdiff_t>(stripes.size()));
  // Weak: the hook lives in the pull.
  pull->on_abort([used, weak = std::weak_ptr<Pull>(pull)] {
    const auto aborted = weak.lock();
    if (!aborted) return;
    for (const ConnectionHandle& handle : used) {
      handle.post(&ReaderSessions::forget, aborted);
    }
  });
  for (std::size_t i = 0; i < stripes.size(); ++i) {
    const Stripe& stripe = stripes[i];
    if (used[i].post(&ReaderSessions::begin, stripe)) continue;
    stripe.fail(pull->error(Errc::closed, "could not start: the engine was closed"));
    stripe.set_quiet();
  }
}

void tie_together(const std::vector<ConnectionHandle>& connections) {
  // Weak: each connection would keep the others alive, and they it.
  std::vector<std::pair<std::weak_ptr<ReaderConnection>, ConnectionHandle>> all;
  for (const ConnectionHandle& one : connections) {
    all.emplace_back(one.connection, ConnectionHandle{nullptr, one.commands, one.reader});
  }
  // Those that were lost already stay as they are.
  const std::function<void(const Error&)> end_all = [all](const Error& why) {
    for (auto [weak, handle] : all) {
      handle.connection = weak.lock();
      if (handle.connection) handle.post(&ReaderSessions::leave, why);
    }
  };
  for (const ConnectionHandle& one : connections) one.post(&ReaderSessions::join, end_all);
}

}  // namespace kvdirect
