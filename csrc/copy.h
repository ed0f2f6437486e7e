// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>

namespace kvdirect {

// Copies between memories that do not overlap. From 16 KiB on it writes past the caches where the processor can: what
// a pull brings is used once, much later, and reading lines only to overwrite them costs a third of the bandwidth.
// Such writes are ordered only by copies_done(), which whoever copied calls before he tells anybody.
void copy_block(void* to, const void* from, std::size_t bytes) noexcept;
void copies_done() noexcept;

}  // namespace kvdirect
