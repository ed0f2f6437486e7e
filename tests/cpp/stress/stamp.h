// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>

// What a lease's rows hold: every word says which lease, position, layer and component it belongs to.
namespace kvdirect::stress {

[[nodiscard]] std::uint64_t stamp(std::uint64_t epoch, std::uint64_t position, std::uint64_t page) noexcept;

// The thread sanitizer does not see these words being written. By design an owner overwrites blocks as soon as their
// lease has ended, while the kernel may still be sending them: what is sent so is void, for the verdict behind it says
// that the lease is no more. Only this write is exempt; what decides the verdict, and every destination, is watched.
void write_unwatched(std::uint64_t* row, std::uint64_t stamp) noexcept;

[[nodiscard]] bool row_holds(const std::uint64_t* row, std::uint64_t stamp) noexcept;

}  // namespace kvdirect::stress
