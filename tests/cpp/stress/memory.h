// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine.h"

namespace kvdirect::stress {

// A region's memory. Shared memory can be read over every lane; the heap's is what the address sanitizer watches.
class Memory {
 public:
  Memory(std::size_t bytes, bool shared) {
    if (shared) {
      _shared = SharedMemory::make(bytes);
    } else {
      _own = std::make_unique<std::uint64_t[]>(bytes / sizeof(std::uint64_t));
    }
  }

  [[nodiscard]] std::uint64_t* words() const noexcept {
    return _shared ? reinterpret_cast<std::uint64_t*>(_shared->data()) : _own.get();
  }
  [[nodiscard]] std::uint64_t address() const noexcept { return reinterpret_cast<std::uintptr_t>(words()); }

 private:
  std::shared_ptr<SharedMemory> _shared;
  std::unique_ptr<std::uint64_t[]> _own;
};

}  // namespace kvdirect::stress
