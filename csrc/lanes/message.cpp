// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/message.h"

#include <future>

namespace kvdirect {

LaneCapabilities MessageLane::capabilities() const noexcept {
  return {.one_sided = false, .same_host = false, .carries = &host_to_host};
}

void MessageLane::prove(Clock::time_point deadline) {
  const auto refuse = [this](const std::string& why) {
    return Error(Errc::lane, "message does not work: " + why, {.operation = "prove lane", .peer = _connection->peer});
  };
  // Shared, because a command must be copyable.
  auto promise = std::make_shared<std::promise<Proof>>();
  auto answer = promise->get_future();
  const bool posted = _inbox->post(
      [connection = _connection, &reading = _reading, promise] { reading.probe(*connection, std::move(*promise)); });
  if (!posted) throw refuse("the engine was closed");
  if (answer.wait_until(deadline) != std::future_status::ready) throw refuse("the owner did not answer in time");
  Proof proof;
  try {
    proof = answer.get();
  } catch (const Error& error) {
    throw refuse(error.what());
  }
  if (proof.incarnation != _connection->incarnation || !same_secret(proof.nonce, _connection->welcome.nonce)) {
    throw refuse("somebody else answered");
  }
}

void MessageLane::submit(std::shared_ptr<Pull> pull) {
  // Weak: the hook lives in the pull.
  pull->on_abort([connection = _connection, inbox = _inbox, &reading = _reading, weak = std::weak_ptr<Pull>(pull)] {
    const auto aborted = weak.lock();
    if (!aborted) return;
    inbox->post([connection, &reading, aborted] { reading.forget(*connection, aborted.get()); });
  });
  if (_inbox->post([connection = _connection, &reading = _reading, pull] { reading.begin(*connection, pull); })) return;
  pull->fail(pull->error(Errc::closed, "could not start: the engine was closed"));
  pull->set_quiet();
}

}  // namespace kvdirect
