// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lane.h"
#include "lanes/rdma_domain.h"
#include "session/reader_connection.h"

namespace kvdirect {

// Reads the owner's registered memory with UCX gets over RDMA devices: neither processor copies, and the owner's does
// nothing at all.
class RdmaLane final : public Lane {
 public:
  struct Options {
    std::shared_ptr<const ReaderConnection> connection;  // its welcome has no rdma where the owner has none
    std::size_t regions = 0;                             // as the descriptor says
    std::vector<std::uint32_t> wanted;                   // the owner's regions that pulls may read
  };
  RdmaLane(Options options, std::shared_ptr<RdmaDomain> domain)
      : _options(std::move(options)), _domain(std::move(domain)) {}
  ~RdmaLane() override;

  [[nodiscard]] std::string_view name() const noexcept override { return "rdma"; }
  [[nodiscard]] LaneCapabilities capabilities() const noexcept override;
  void prove(Clock::time_point deadline) override;
  void submit(std::shared_ptr<Pull> pull) override;
  [[nodiscard]] std::string limits() const override { return _domain->why_not_into_cuda(); }

 private:
  Options _options;
  std::shared_ptr<RdmaDomain> _domain;
  std::shared_ptr<RdmaLink> _link;
};

}  // namespace kvdirect
