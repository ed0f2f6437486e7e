// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "lane.h"
#include "lanes/copy_pool.h"
#include "lanes/copy_pull.h"
#include "wire/messages.h"

namespace kvdirect {

// Reads the owner's memory from this process, on the same host: process_vm_readv.
class CmaLane final : public Lane {
 public:
  // `owner`: what the welcome said; nullptr where the owner does not allow it.
  struct Options {
    std::uint64_t incarnation = 0;
    std::string peer;
    std::optional<HostAccess> host;
    std::size_t regions = 0;  // as the descriptor says
  };
  // `parts`: how many threads one pull may keep busy.
  CmaLane(Options options, std::shared_ptr<CopyPool> pool, unsigned parts)
      : _options(std::move(options)), _pool(std::move(pool)), _parts(parts) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "cma"; }
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
