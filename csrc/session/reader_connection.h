// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "message/pull_client.h"
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
  using HoldKey = std::pair<std::uint32_t, std::uint64_t>;  // slot, epoch
  struct Hold {
    double term = 0;
    Clock::duration affirm_within{};
    Clock::time_point affirmed;
    Clock::time_point next_renew;
  };

  std::unique_ptr<Stream> stream;
  std::unique_ptr<StreamListener> listener;
  std::unique_ptr<PullClient> client;  // its pulls; null once the connection is lost
  Clock::time_point hello_deadline;
  Bytes key;    // of the descriptor
  Bytes hello;  // as it was sent
  std::optional<Nonce> challenge;
  std::optional<std::promise<void>> welcomed;
  std::optional<std::promise<Proof>> proving;
  std::map<HoldKey, Hold> holds;
  std::function<void(const Error& why)> on_lost;  // the session's other connections end with it
  bool lost = false;

  void send(MessageId message, BytesView body) {
    if (!lost && stream) stream->send(message, body);
  }
};

}  // namespace kvdirect
