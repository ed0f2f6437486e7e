// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "net/readiness.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace kvdirect {

bool ready_by(int fd, short events, std::chrono::steady_clock::time_point deadline) noexcept {
  pollfd waiting{fd, events, 0};
  int ready = -1;
  do {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    ready = poll(&waiting, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000)));
  } while (ready < 0 && errno == EINTR);
  return ready == 1;
}

}  // namespace kvdirect
