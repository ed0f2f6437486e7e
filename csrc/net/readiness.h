// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>

namespace kvdirect {

// Waits until `fd` has one of these events (poll's), which an error or an end counts as; false: not by the deadline.
[[nodiscard]] bool ready_by(int fd, short events, std::chrono::steady_clock::time_point deadline) noexcept;

}  // namespace kvdirect
