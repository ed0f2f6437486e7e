// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "pull.h"

namespace kvdirect {

// Writes the byte stream of one pull into its runs, in order. Addresses come from the reader's own run list only.
class Landing {
 public:
  explicit Landing(const PullJob& job) noexcept : _job(&job) {}

  // False, with nothing written, unless the bytes are exactly the next ones wanted.
  bool land(std::uint64_t offset, std::span<const std::byte> bytes) noexcept {
    if (offset != _landed || bytes.size() > _job->bytes - _landed) return false;
    while (!bytes.empty()) {
      const Run& run = _job->runs[_run];
      const std::size_t length = std::min<std::size_t>(bytes.size(), run.length - _inside);
      std::memcpy(_job->local->regions[run.local_region].address + run.local_offset + _inside, bytes.data(), length);
      bytes = bytes.subspan(length);
      _landed += length;
      _inside += length;
      if (_inside == run.length) {
        ++_run;
        _inside = 0;
      }
    }
    return true;
  }

  [[nodiscard]] bool complete() const noexcept { return _landed == _job->bytes; }
  [[nodiscard]] std::uint64_t landed() const noexcept { return _landed; }

 private:
  const PullJob* _job;
  std::size_t _run = 0;
  std::uint64_t _inside = 0;
  std::uint64_t _landed = 0;
};

}  // namespace kvdirect
