// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <vector>

#include "base/counters.h"
#include "base/error.h"
#include "message/receive_cursor.h"
#include "message/stripe.h"
#include "net/stream.h"
#include "planner/piece_cursor.h"
#include "pull.h"
#include "wire/messages.h"

namespace kvdirect {

// The reader's half of the message lane for one connection: asks for the runs of stripes, lands what comes, believes
// the verdict. Only on its stream's thread.
class PullClient {
 public:
  PullClient(Stream& stream, Counters& counters) : _stream(stream), _counters(counters) {}

  void begin(Stripe stripe);
  // As much as the stream should have to keep; the rest when that was sent.
  void ask();
  // As StreamListener has them.
  std::size_t place(const DataHeader& data, std::uint64_t bytes, std::span<iovec> parts);
  void landed(const DataHeader& data, std::uint64_t bytes);
  void on_verdict(const Verdict& verdict);
  void on_proven(const Proven& proven);
  // A pull that somebody else ended: forget what is here of it, so that it becomes quiet.
  void forget(const Pull* pull);
  // Ends what is past its deadline; says which deadline is next.
  Clock::time_point tick(Clock::time_point now);
  // Fails everything, with the connection.
  void lose(const Error& why);

 private:
  struct Running {
    ReceiveCursor cursor;
    PieceCursor unasked;    // what the owner has not been asked for:
    std::size_t asked = 0;  // it follows so many runs
    bool valid = false;     // the verdict came
  };

  void admit_waiting();
  void ask_some(std::uint64_t id, Running& running);
  void finish(std::uint64_t id);
  void finish_if_complete(std::uint64_t id);
  template <class Action>
  void each_stripe(const Action& action) const;

  Stream& _stream;
  Counters& _counters;
  std::vector<std::byte> _arrived;  // small pieces until they are put in place; from the first pull that permutes on
  std::uint64_t _next_id = 1;
  std::map<std::uint64_t, Running> _running;
  std::uint64_t _running_runs = 0;
  std::deque<std::uint64_t> _asking;  // of those running: not all of their runs are asked for yet
  std::deque<Stripe> _waiting;        // the owner takes a bounded number at a time
};

}  // namespace kvdirect
