// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "mappings.h"

#include <algorithm>
#include <atomic>

#include "context.h"

namespace kvdirect::sim {

namespace {

std::atomic<std::size_t> used_after_free = 0;
std::atomic<std::uint64_t> next_number = 1;

[[noreturn]] void fault(std::uint64_t address, std::size_t size, Access access, const char* who,
                        const std::string& why) {
  throw Fault{CUDA_ERROR_ILLEGAL_ADDRESS, std::string(who) + (access == Access::read ? " reads " : " writes ") +
                                              std::to_string(size) + " bytes at " + hex(address) + ": " + why};
}

void note_use_after_free(const Mapping& mapping, std::uint64_t address, const char* who) {
  if (mapping.kind != Kind::imported || !mapping.memory->freed()) return;
  ++used_after_free;
  say(std::string(who) + " uses " + hex(address) + ", which the exporting process has freed");
}

// Two pieces that follow one another are one only within a reservation.
bool continues(const Mapping& before, const Mapping& after) {
  return before.kind == Kind::vmm && after.kind == Kind::vmm && before.addresses.start == after.addresses.start;
}

}  // namespace

Mappings& mappings() {
  static auto& all = *new Mappings;
  return all;
}

MappingTable::iterator find_mapping(std::uint64_t address) {
  auto& table = mappings().table;
  auto after = table.upper_bound(address);
  if (after == table.begin()) return table.end();
  const auto found = std::prev(after);
  return address - found->first < found->second.size ? found : table.end();
}

MappingTable::iterator need_mapping(std::uint64_t address) {
  const auto found = find_mapping(address);
  if (found == mappings().table.end()) {
    refuse(CUDA_ERROR_INVALID_VALUE, hex(address) + " is in no memory that CUDA knows");
  }
  return found;
}

std::uintptr_t add_mapping(const std::shared_ptr<const Memory>& memory, Mapping mapping) {
  mapping.memory = memory;
  mapping.size = memory->size();
  mapping.addresses = reserve_addresses(memory->size(), 0);
  mapping.number = next_number++;
  place(*memory, mapping.addresses.start, mapping.addresses.size);
  const std::uintptr_t start = mapping.addresses.start;
  mappings().table.emplace(start, std::move(mapping));
  return start;
}

void add_piece(std::uintptr_t start, std::size_t size, Mapping mapping) {
  mapping.size = size;
  mapping.number = next_number++;
  mappings().table.emplace(start, std::move(mapping));
}

void drop_mapping(MappingTable::iterator mapping) {
  displace(mapping->second.addresses.start, mapping->second.addresses.size);
  mappings().table.erase(mapping);
}

std::byte* reach(const Context& context, std::uint64_t address, std::size_t size, Access access, const char* who) {
  const auto none = mappings().table.end();
  if (address + size < address) fault(address, size, access, who, "the range ends past the last address");
  auto at = find_mapping(address);
  if (at == none) fault(address, size, access, who, "no memory is there");
  while (true) {
    const Mapping& mapping = at->second;
    const unsigned allowed = access == Access::read ? mapping.readers : mapping.writers;
    if ((allowed & context.gpu_bit()) == 0) fault(address, size, access, who, "this GPU was given no such access");
    note_use_after_free(mapping, address, who);
    const std::uintptr_t end = at->first + mapping.size;
    if (address + size <= end) break;
    const auto next = std::next(at);
    if (next == none || next->first != end || !continues(mapping, next->second)) {
      fault(address, size, access, who, "the memory there ends at " + hex(end));
    }
    at = next;
  }
  return reinterpret_cast<std::byte*>(address + displacement());
}

std::size_t drop_mappings(const Context& owner) {
  const std::unique_lock lock(mappings().mutex);
  auto& table = mappings().table;
  std::size_t dropped = 0;
  for (auto at = table.begin(); at != table.end();) {
    const auto next = std::next(at);
    if (at->second.owner == &owner) {
      drop_mapping(at);
      ++dropped;
    }
    at = next;
  }
  return dropped;
}

std::size_t count_mappings(Kind kind) {
  const std::shared_lock lock(mappings().mutex);
  return static_cast<std::size_t>(
      std::ranges::count_if(mappings().table, [kind](const auto& entry) { return entry.second.kind == kind; }));
}

std::size_t uses_after_free() { return used_after_free; }

}  // namespace kvdirect::sim
