// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <memory>

#include "lanes/host_copy.h"
#include "session/reader_connection.h"

namespace kvdirect {

// Lane cma: reads the owner's memory from this process, on the same host: process_vm_readv. `regions`: how many the
// descriptor names. Throws Error(lane).
[[nodiscard]] std::shared_ptr<const HostMemory> open_process(const ReaderConnection& owner, std::size_t regions);

}  // namespace kvdirect
