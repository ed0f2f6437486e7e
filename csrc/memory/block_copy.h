// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvdirect {

// When the copy is read next. What is read soon should lie in the caches then; more than fit there is written past them
// where the processor can, since reading lines only to overwrite them costs a third of the bandwidth.
enum class Use : std::uint8_t { soon, late };

// By all that lands together. A smaller pull is still in the caches when the model takes its next step, right after it:
// its first step was a third slower when it was not.
[[nodiscard]] constexpr Use use_of(std::size_t landing) noexcept {
  return landing < std::size_t{32} << 20 ? Use::soon : Use::late;
}

// Copies between memories that do not overlap. What is written past the caches is ordered only by copies_done(), which
// whoever copied calls before he tells anybody.
void copy_block(void* to, const void* from, std::size_t bytes, Use use) noexcept;
void copies_done() noexcept;

}  // namespace kvdirect
