// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/non_copyable.h"
#include "wire/messages.h"

namespace kvdirect {

// What readers told the owner's program, until it asks; bounded, of each session and of all. Any thread.
class Notes : NonCopyable {
 public:
  struct From {
    std::string reader;
    std::uint64_t incarnation = 0;
    Bytes body;
  };

  // False where there is no room: it is dropped. `session`: its nonce.
  bool put(const Token& session, From note);
  // All there are, in order; where there are none, waits for the first until the deadline, or until close().
  [[nodiscard]] std::vector<From> take(std::chrono::steady_clock::time_point deadline);
  // Nobody waits any more.
  void close();

 private:
  std::mutex _mutex;
  std::condition_variable _came;
  std::vector<From> _notes;
  std::map<Token, std::size_t> _of_session;
  bool _closed = false;
};

}  // namespace kvdirect
