// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>

namespace kvdirect {

// Memory that somebody else allocated, moved onto a memory file at the same addresses, and back: pointers, views and
// contents stay. Nobody may write to it meanwhile. `first` and `last` are page boundaries.

// Throws Error(lane) unless all of it is plain private memory of this process, in pages of its own: not locked, not
// kept from forks (as memory that a device has registered is), no file, not reserved large pages.
void check_adoptable(const std::byte* first, const std::byte* last);

// `file_offset`: of `first`; congruent to it modulo a large page. Throws Error(transport, lane), with everything as it
// was.
void move_to_file(std::byte* first, std::byte* last, int fd, std::size_t file_offset);

// Back to private memory. False if the kernel had not enough for all of it: the rest stays on the file.
bool move_from_file(std::byte* first, std::byte* last) noexcept;

}  // namespace kvdirect
