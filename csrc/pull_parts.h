// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/non_copyable.h"
#include "pull.h"

namespace kvdirect {

// Reads of several owners that are one pull: valid once all of them are, failed by the first that fails, which ends the
// others, and quiet when all are. Thread-safe.
class PullParts final : public PullMakeup, public std::enable_shared_from_this<PullParts> {
 public:
  // `shards`: whose part each is.
  PullParts(std::vector<std::shared_ptr<Pull>> parts, std::vector<std::size_t> shards)
      : _parts(std::move(parts)), _shards(std::move(shards)) {}

  // Makes them `whole`'s, which keeps this; before any is started. A whole that nobody has any more lets its parts go
  // on.
  void join(const std::shared_ptr<Pull>& whole);
  [[nodiscard]] const std::vector<std::shared_ptr<Pull>>& all() const noexcept { return _parts; }
  void abort(const Error& why) const;
  // Ends the whole if its parts have ended, as those do once they are; for who has none.
  void look() const;
  // Of all together.
  [[nodiscard]] PullResult result(double seconds) const override;
  [[nodiscard]] std::uint64_t bytes() const override;
  [[nodiscard]] std::uint64_t runs() const override;
  bool help() override;

 private:
  std::weak_ptr<Pull> _whole;
  const std::vector<std::shared_ptr<Pull>> _parts;
  const std::vector<std::size_t> _shards;
};

}  // namespace kvdirect
