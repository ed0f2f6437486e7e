// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"

namespace kvdirect {

// A directory that is ours alone: made with mode 0700 if it is not there. Throws Error(lane).
void make_private_directory(const std::string& path);
// Sockets in it on which nobody listens any more are removed: their owners were killed.
void sweep_sockets(const std::string& directory);

// A non-blocking socket that listens at this path, which ends in ".sock" and is there only once it listens. Throws
// Error(lane).
[[nodiscard]] Fd listen_at(const std::string& path);
// A connected, blocking socket. Throws Error(lane).
[[nodiscard]] Fd connect_at(const std::string& path);
// Whether the process at the other end is the same user's.
[[nodiscard]] bool same_user(int fd) noexcept;

// One byte with descriptors; false if they did not go (a full socket counts as that).
[[nodiscard]] bool send_descriptors(int fd, std::span<const int> descriptors) noexcept;
// Exactly so many. Throws Error(lane): none came before the deadline, or not these.
[[nodiscard]] std::vector<Fd> receive_descriptors(int fd, std::size_t count,
                                                  std::chrono::steady_clock::time_point deadline);

}  // namespace kvdirect
