// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cuda/gpu.h"
#include "lane.h"
#include "lanes/copy_pool.h"
#include "session/reader_connection.h"

namespace kvdirect {

class CopySpeed;

// An owner's memory on a GPU of this host, as long as its session stands.
class CudaOwner;

// Copies from the memory of the owner's GPU to that of ours, mapped once, on the same host: one launch for thousands of
// runs, and nothing for the owner to do. The lease is checked before and after, in the owner's control page.
class CudaIpcLane final : public Lane {
 public:
  struct Options {
    std::shared_ptr<const ReaderConnection> connection;
    std::vector<std::uint64_t> region_bytes;  // as the descriptor says
    std::vector<std::uint32_t> wanted;        // regions of the owner that pulls read
    std::shared_ptr<const Published> local;
  };
  // `gpu`: null where this engine has no memory on one. `pool`: waits for what the GPU was given.
  CudaIpcLane(Options options, std::shared_ptr<Gpu> gpu, std::shared_ptr<CopyPool> pool)
      : _options(std::move(options)), _gpu(std::move(gpu)), _pool(std::move(pool)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "cuda_ipc"; }
  [[nodiscard]] LaneCapabilities capabilities() const noexcept override;
  void prove(Clock::time_point deadline) override;
  void submit(std::shared_ptr<Pull> pull) override;
  [[nodiscard]] std::string way() const override { return _way; }

 private:
  Options _options;
  std::shared_ptr<Gpu> _gpu;
  std::shared_ptr<CopyPool> _pool;
  std::string _way;
  // Once proven.
  std::shared_ptr<CudaOwner> _owner;
  std::shared_ptr<BoxCache> _boxes;
  std::shared_ptr<CopySpeed> _speed;
};

}  // namespace kvdirect
