// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <string>

#include "base/non_copyable.h"

namespace kvdirect {

// What an engine lets its readers have of this process's descriptors (RLIMIT_NOFILE). The process keeps the rest; its
// engines share. One thread's, but for the numbers of all engines.
class DescriptorShare : NonCopyable {
 public:
  DescriptorShare() noexcept;
  ~DescriptorShare();

  // Whether sessions may have one more connection.
  [[nodiscard]] bool has_room() const noexcept;
  void take() noexcept;
  void give_back(std::size_t connections) noexcept;
  // Why not, for the reader.
  [[nodiscard]] std::string why_full() const;

  // Connections of one engine that are not admitted, and those to its unix socket.
  [[nodiscard]] static std::size_t unadmitted() noexcept;
  [[nodiscard]] static std::size_t handoffs() noexcept;

 private:
  std::size_t _taken = 0;
};

}  // namespace kvdirect
