// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "knock.h"
#include "landing.h"
#include "protocol.h"
#include "pull.h"
#include "ucx.h"

namespace kvdirect {

// The reader's end of a session with one owner. The fields above the line are fixed, or atomic, once connect()
// returned; those below belong to the control thread.
struct Connection {
  std::uint64_t id = 0;  // the owner stamps its messages with it
  std::string peer;
  std::uint64_t incarnation = 0;
  std::atomic<bool> alive{false};
  Welcome welcome;
  std::string transports;
  std::uint64_t segment_bytes = 0;
  std::shared_ptr<Knock> knock;  // until the session stands
  // ---------------------------------------------------------------------------------------------------------------
  struct Running {
    std::shared_ptr<Pull> pull;
    Landing landing;
    bool valid = false;  // the verdict came
  };
  using HoldKey = std::pair<std::uint32_t, std::uint64_t>;  // slot, epoch
  struct Hold {
    double term = 0;
    Clock::duration affirm_within{};
    Clock::time_point affirmed;
    Clock::time_point next_renew;
  };

  Token token{};  // expected on what the owner sends: the challenge first, then the session's
  std::unique_ptr<ucx::Endpoint> endpoint;
  Clock::time_point hello_deadline;
  std::optional<std::promise<void>> welcomed;
  std::optional<std::promise<Proof>> proving;
  std::uint64_t next_pull = 1;
  std::map<std::uint64_t, Running> running;
  std::uint64_t running_runs = 0;
  std::deque<std::shared_ptr<Pull>> waiting;  // the owner takes a bounded number at a time
  std::map<HoldKey, Hold> holds;
  bool lost = false;

  [[nodiscard]] Bytes stamp() const { return Stamp{welcome.session, welcome.token}.encode(); }
  void send(MessageId message, Bytes payload) {
    if (endpoint) endpoint->send(static_cast<unsigned>(message), stamp(), std::move(payload));
  }
};

}  // namespace kvdirect
