// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "message/receive_cursor.h"
#include "net/stream.h"
#include "pull.h"
#include "wire/messages.h"

namespace kvdirect {

// The reader's end of one connection to an owner: the first of a session, or one that carries stripes of large pulls.
// The fields above the line are fixed, or atomic, once connect() returned; those below belong to its stream's thread.
struct ReaderConnection : std::enable_shared_from_this<ReaderConnection> {
  std::string peer;
  std::uint64_t incarnation = 0;
  std::atomic<bool> alive{false};
  unsigned stream_number = 0;  // within the session
  Token session{};             // its nonce; known to all but the first
  Welcome welcome;
  // ---------------------------------------------------------------------------------------------------------------
  struct Running {
    ReceiveCursor cursor;
    std::size_t asked = 0;  // runs that the owner has been asked for
    bool valid = false;     // the verdict came
  };
  using HoldKey = std::pair<std::uint32_t, std::uint64_t>;  // slot, epoch
  struct Hold {
    double term = 0;
    Clock::duration affirm_within{};
    Clock::time_point affirmed;
    Clock::time_point next_renew;
  };

  std::unique_ptr<Stream> stream;
  std::unique_ptr<StreamListener> listener;
  Clock::time_point hello_deadline;
  std::optional<std::promise<void>> welcomed;
  std::optional<std::promise<Proof>> proving;
  std::uint64_t next_pull = 1;
  std::map<std::uint64_t, Running> running;
  std::uint64_t running_runs = 0;
  std::deque<std::uint64_t> asking;  // of those running: not all of their runs are asked for yet
  std::deque<Stripe> waiting;        // the owner takes a bounded number at a time
  std::map<HoldKey, Hold> holds;
  std::function<void(const Error& why)> on_lost;  // the session's other connections end with it
  bool lost = false;

  void send(MessageId message, BytesView body) {
    if (!lost && stream) stream->send(message, body);
  }
};

}  // namespace kvdirect
