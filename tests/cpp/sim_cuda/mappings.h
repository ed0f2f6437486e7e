// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "call.h"
#include "memory.h"

namespace kvdirect::sim {

// Addresses behind which there is memory: an allocation, another process's, a piece of VMM memory, or pinned host
// memory.
struct Mapping {
  Kind kind = Kind::plain;
  std::size_t size = 0;
  Addresses addresses;  // VMM: the reservation it lies in; else its own
  std::shared_ptr<const Memory> memory;
  const Context* owner = nullptr;  // it ends with this context; VMM memory has none
  unsigned readers = 0;            // a bit for each GPU that may
  unsigned writers = 0;
  unsigned opened = 1;                      // imported: how often
  CUmemGenericAllocationHandle handle = 0;  // VMM: what it was mapped with
  std::uint64_t number = 0;                 // never given twice

  [[nodiscard]] bool on_host() const noexcept { return kind == Kind::host; }
};

using MappingTable = std::map<std::uintptr_t, Mapping>;

// Who changes mappings holds the lock alone; who copies, shares it, so that no memory goes away under a copy.
struct Mappings {
  std::shared_mutex mutex;
  MappingTable table;  // by first address
};
[[nodiscard]] Mappings& mappings();

// The callers of these hold the lock.

// The mapping that an address lies in, or end().
[[nodiscard]] MappingTable::iterator find_mapping(std::uint64_t address);
// Throws Refusal(CUDA_ERROR_INVALID_VALUE).
[[nodiscard]] MappingTable::iterator need_mapping(std::uint64_t address);
// Memory at addresses of its own.
std::uintptr_t add_mapping(const std::shared_ptr<const Memory>& memory, Mapping mapping);
// VMM memory at addresses of a reservation; the caller has placed it there.
void add_piece(std::uintptr_t start, std::size_t size, Mapping mapping);
void drop_mapping(MappingTable::iterator mapping);

enum class Access { read, write };

// Where the bytes really are, for the GPU of a context. Throws Fault(CUDA_ERROR_ILLEGAL_ADDRESS) unless the context's
// GPU may do so to all of them. `who` says for whom, in the message.
[[nodiscard]] std::byte* reach(const Context& context, std::uint64_t address, std::size_t size, Access access,
                               const char* who);

// These take the lock themselves.

// Those of a context that ends; returns how many.
std::size_t drop_mappings(const Context& owner);
[[nodiscard]] std::size_t count_mappings(Kind kind);
// How often memory was reached that its exporter had freed, which CUDA does not define.
[[nodiscard]] std::size_t uses_after_free();

}  // namespace kvdirect::sim
