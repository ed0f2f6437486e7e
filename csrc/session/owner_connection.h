// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <bitset>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "session/owner.h"

namespace kvdirect {

// One connection from a reader, a stranger's until it has proved that it knows the key. It is the first of a session,
// or carries data for one whose first connection another thread has.
struct OwnerConnection final : StreamListener {
  OwnerConnection(OwnerSessions& its_owner, Fd fd, std::size_t max_message)
      : owner(its_owner), stream(owner._event_thread->reactor(), std::move(fd), max_message, [this](std::uint32_t) {
          owner.serve(*this);
        }) {}

  void on_message(MessageId message, BytesView body) override { owner.on_message(*this, message, body); }
  std::size_t place(const DataHeader& /*data*/, std::uint64_t /*bytes*/, std::span<iovec> /*parts*/) override {
    throw Error(Errc::codec, "no reader sends data");
  }
  void landed(const DataHeader& /*data*/, std::uint64_t /*bytes*/) override {}

  enum class Stage : std::uint8_t { hello, answer, refused, admitted };  // the first two: what is to come next

  [[nodiscard]] bool admitted() const noexcept { return stage == Stage::admitted && !lost; }

  OwnerSessions& owner;
  Stream stream;
  std::chrono::steady_clock::time_point patient_until;
  Stage stage = Stage::hello;
  Bytes hello;        // as it came; the challenge answers it
  Nonce challenge{};  // ours
  std::string reader;
  std::uint64_t reader_incarnation = 0;
  Bytes identity;  // whose pass; empty: who has the owner's own secret
  Token nonce{};   // the session's; readers on this host read it here
  std::unique_ptr<PullServer> server;
  bool in_turn = false;                  // is among those whose servers have something to send
  std::optional<unsigned> leaving_for;   // the sibling who is to have this connection, and
  Bytes welcome;                         // what it is to say first
  std::vector<Token> secrets;            // for the handoff socket
  std::bitset<limits::streams> streams;  // that the session has, the first not counted
  std::function<void()> on_lost;         // of a connection that came from a sibling
  bool carried_data = false;             // a pull came over it, or nonsense: its end is the session's
  bool lost = false;
};

}  // namespace kvdirect
