// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace kvdirect {

// What went wrong, coarse enough to map one to one onto a Python exception class.
enum class Errc {
  config,         // a setting or an argument is bad
  plan,           // maps or block tables that cannot be carried exactly once
  codec,          // bytes from outside that do not decode
  connect,        // a peer could not be reached or refused us
  mismatch,       // both ends are reachable, and describe different things
  lane,           // no permitted lane works to this peer
  lease_expired,  // the owner no longer promises these blocks
  timeout,        // a deadline passed
  cancelled,      // the caller asked for it
  peer_lost,      // the peer went away
  corrupt,        // other bytes arrived than the owner has
  transport,      // UCX or the kernel reported an error
  closed,         // the engine, peer or pull is closed, or the process forked
  wait_timeout,   // a wait's time passed; what was waited for goes on
  invalid_state,  // a result was asked for before there was one
};

[[nodiscard]] const char* name(Errc code) noexcept;

// Where an error happened. Empty fields are left out of the message.
struct ErrorContext {
  std::string operation;  // what was attempted: "connect", "pull"
  std::string peer;       // with whom, as the user knows it
  std::string status;     // what the layer below said
  std::string hint;       // what to do about it
};

// The one error type of the core. what() is the whole sentence, context() its parts.
class Error : public std::runtime_error {
 public:
  Error(Errc code, const std::string& message, ErrorContext context = {});

  [[nodiscard]] Errc code() const noexcept { return _code; }
  [[nodiscard]] const ErrorContext& context() const noexcept { return _context; }

 private:
  Errc _code;
  ErrorContext _context;
};

// Why a lane cannot be used: "shm does not work: the owner's memory is not shared".
[[nodiscard]] Error lane_error(std::string_view lane, const std::string& why, ErrorContext context = {});

// For a system call that failed: says which and why (errno).
[[nodiscard]] Error kernel_refused(const char* operation);

}  // namespace kvdirect
