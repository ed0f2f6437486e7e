// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>

#include "gate.h"

namespace kvdirect {

// The reader at an owner's gate: vouches for the connections that UCX opens from this process to the owner's worker.
// Thread-safe.
class Knock {
 public:
  using Clock = std::chrono::steady_clock;

  // Connects to the gate and is admitted. `reader`: where this engine's reading worker listens. Throws
  // Error(connect).
  Knock(const GateAddress& gate, Bytes admission, const TcpAddress& reader, Clock::time_point deadline);

  // Vouches for connections that are new, and waits until the owner has let them through or `until`. Throws
  // Error(connect) if the gate was closed on us.
  void vouch(Clock::time_point until);
  // The session stands: the connections it uses go back to the kernel's usual pauses. Never throws.
  void relax() noexcept;
  // How far we got, for an error: "admitted, 1 of 1 connections let through".
  [[nodiscard]] std::string progress() const;

 private:
  void name_new_connections();
  void say(const KnockRequest& request);
  // Takes in answers until we are admitted and every connection named is open, or `until`; true if they are.
  bool hear(Clock::time_point until);
  void obey(GateAnswer answer);
  void admit_dialled();

  GateAddress _gate;
  Bytes _admission;
  std::uint16_t _reader_port;
  std::mutex _mutex;
  Fd _fd;
  TcpAddress _owner;
  std::set<std::uint16_t> _earlier;  // connections to this owner that are not this session's
  std::set<std::uint16_t> _named;
  std::atomic<std::size_t> _named_count{0};
  std::set<std::uint16_t> _dialled;  // the owner's connections to us that are still shielded
  Bytes _received;
  std::atomic<std::size_t> _open{0};
  std::atomic<bool> _admitted{false};
};

}  // namespace kvdirect
