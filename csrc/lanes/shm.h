// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "lane.h"
#include "lanes/copy_pool.h"
#include "lanes/copy_pull.h"
#include "session/reader_connection.h"

namespace kvdirect {

// Copies out of the owner's shared memory, mapped once, on the same host: no system call per block, and nothing for
// the owner's processor to do.
class ShmLane final : public Lane {
 public:
  struct Options {
    std::shared_ptr<const ReaderConnection> connection;
    std::vector<std::uint64_t> region_bytes;  // as the descriptor says
  };
  // `parts`: how many threads one pull may keep busy.
  ShmLane(Options options, std::shared_ptr<CopyPool> pool, unsigned parts)
      : _options(std::move(options)), _pool(std::move(pool)), _parts(parts) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "shm"; }
  [[nodiscard]] LaneCapabilities capabilities() const noexcept override;
  void prove(Clock::time_point deadline) override;
  void submit(std::shared_ptr<Pull> pull) override;

 private:
  Options _options;
  std::shared_ptr<CopyPool> _pool;
  unsigned _parts;
  std::shared_ptr<const CopySource> _owner;  // once proven
};

}  // namespace kvdirect
