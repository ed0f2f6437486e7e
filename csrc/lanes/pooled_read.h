// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <memory>

#include "lanes/copy_pool.h"
#include "lanes/leased_read.h"

namespace kvdirect {

// As many as `threads` of the pool help with one read.
[[nodiscard]] Helpers helpers_of(const std::shared_ptr<CopyPool>& pool, std::size_t threads);

// Has the pool step the read from `when` on, at once when its pull is ended from outside.
void step_on(const std::shared_ptr<CopyPool>& pool, const std::shared_ptr<LeasedRead>& read, Clock::time_point when);

}  // namespace kvdirect
