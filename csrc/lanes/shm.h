// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lanes/host_copy.h"
#include "session/reader_connection.h"

namespace kvdirect {

// Lane shm: copies out of the owner's shared memory, mapped once, on the same host: no system call per block, and
// nothing for the owner's processor to do. `region_bytes`: as the descriptor says. Throws Error(lane).
[[nodiscard]] std::shared_ptr<const HostMemory> map_owner(const std::shared_ptr<const ReaderConnection>& owner,
                                                          const std::vector<std::uint64_t>& region_bytes,
                                                          Clock::time_point deadline);

}  // namespace kvdirect
