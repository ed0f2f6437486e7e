// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "vmm.h"

#include <algorithm>
#include <map>
#include <span>

#include "context.h"
#include "mappings.h"

// VMM addresses: reserved, mapped, made accessible.
namespace kvdirect::sim {

namespace {

// Under the mappings' lock.
std::map<std::uintptr_t, Addresses>& reservations() {
  static auto& all = *new std::map<std::uintptr_t, Addresses>;
  return all;
}

void check_multiple(const char* what, std::uint64_t value) {
  if (value % granularity == 0) return;
  refuse(CUDA_ERROR_INVALID_VALUE, std::string(what) + " " + hex(value) + " is no multiple of 2 MiB");
}

const Addresses& reservation_around(std::uintptr_t start, std::size_t size) {
  auto after = reservations().upper_bound(start);
  if (after != reservations().begin()) {
    const Addresses& found = std::prev(after)->second;
    const std::size_t before = start - found.start;
    if (before < found.size && size <= found.size - before) return found;
  }
  refuse(CUDA_ERROR_INVALID_VALUE, hex(start) + " is in no reservation that holds the whole range");
}

bool overlaps_mapping(std::uintptr_t start, std::size_t size) {
  const auto next = mappings().table.lower_bound(start);
  return find_mapping(start) != mappings().table.end() ||
         (next != mappings().table.end() && next->first < start + size);
}

// Mappings that make up exactly this range. Throws Refusal if there are none such.
std::vector<MappingTable::iterator> pieces(std::uintptr_t start, std::size_t size) {
  std::vector<MappingTable::iterator> found;
  std::uintptr_t at = start;
  while (at < start + size) {
    const auto piece = mappings().table.find(at);
    if (piece == mappings().table.end() || piece->second.kind != Kind::vmm || piece->second.size > start + size - at) {
      refuse(CUDA_ERROR_INVALID_VALUE, "no mapping of cuMemMap begins and ends within the range at " + hex(at));
    }
    found.push_back(piece);
    at += piece->second.size;
  }
  if (found.empty()) refuse(CUDA_ERROR_INVALID_VALUE, "an empty range");
  return found;
}

void set_access(const std::vector<MappingTable::iterator>& range, const CUmemAccessDesc& access) {
  if (access.location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    refuse(CUDA_ERROR_NOT_SUPPORTED, "only access of GPUs is simulated");
  }
  const Context& context = context_of(static_cast<CUdevice>(access.location.id));
  for (const auto& piece : range) check_reach(context, piece->second.memory->gpu());
  const unsigned gpu = context.gpu_bit();
  const bool reads = access.flags == CU_MEM_ACCESS_FLAGS_PROT_READ;
  const bool writes = access.flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  if (!reads && !writes && access.flags != CU_MEM_ACCESS_FLAGS_PROT_NONE) {
    refuse(CUDA_ERROR_INVALID_VALUE, "unknown access flags");
  }
  for (const auto& piece : range) {
    Mapping& mapping = piece->second;
    mapping.readers = reads || writes ? mapping.readers | gpu : mapping.readers & ~gpu;
    mapping.writers = writes ? mapping.writers | gpu : mapping.writers & ~gpu;
  }
}

}  // namespace

std::size_t count_reservations() {
  const std::shared_lock lock(mappings().mutex);
  return reservations().size();
}

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr* address, size_t size, size_t alignment, CUdeviceptr /*hint*/,
                                     unsigned long long flags) {
  return call("cuMemAddressReserve", [&] {
    if (!address || size == 0 || flags != 0 || (alignment & (alignment - 1)) != 0) {
      refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the address, no size, flags, or no alignment of a power of two");
    }
    check_multiple("the size", size);
    const std::unique_lock lock(mappings().mutex);
    const Addresses made = reserve_addresses(size, std::max(alignment, granularity));
    reservations().emplace(made.start, made);
    *address = made.start;
  });
}

CUresult CUDAAPI cuMemAddressFree(CUdeviceptr address, size_t size) {
  return call("cuMemAddressFree", [&] {
    const std::unique_lock lock(mappings().mutex);
    const auto found = reservations().find(address);
    if (found == reservations().end() || found->second.size != size) {
      refuse(CUDA_ERROR_INVALID_VALUE, hex(address) + " and the size are not what cuMemAddressReserve gave");
    }
    if (overlaps_mapping(address, size)) refuse(CUDA_ERROR_INVALID_VALUE, "memory is still mapped there");
    reservations().erase(found);
  });
}

CUresult CUDAAPI cuMemMap(CUdeviceptr address, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                          unsigned long long flags) {
  return call("cuMemMap", [&] {
    if (size == 0 || offset != 0 || flags != 0) {
      refuse(CUDA_ERROR_INVALID_VALUE, "the size must not, the offset and the flags must be 0");
    }
    check_multiple("the address", address);
    check_multiple("the size", size);
    const auto memory = memory_of(handle);
    if (size > memory->size()) refuse(CUDA_ERROR_INVALID_VALUE, "the memory is smaller than the range");
    const std::unique_lock lock(mappings().mutex);
    const Addresses& around = reservation_around(address, size);
    if (overlaps_mapping(address, size)) refuse(CUDA_ERROR_INVALID_VALUE, "memory is mapped there already");
    place(*memory, address, size);
    add_piece(address, size, {.kind = Kind::vmm, .addresses = around, .memory = memory, .handle = handle});
  });
}

// Does not wait for work in flight.
CUresult CUDAAPI cuMemUnmap(CUdeviceptr address, size_t size) {
  return call("cuMemUnmap", [&] {
    const std::unique_lock lock(mappings().mutex);
    const auto range = pieces(address, size);
    displace(address, size);
    for (const auto& piece : range) mappings().table.erase(piece);
  });
}

CUresult CUDAAPI cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc* access, size_t count) {
  return call("cuMemSetAccess", [&] {
    if (!access || count == 0) refuse(CUDA_ERROR_INVALID_VALUE, "no access is described");
    const std::unique_lock lock(mappings().mutex);
    const auto range = pieces(address, size);
    for (const CUmemAccessDesc& one : std::span(access, count)) set_access(range, one);
  });
}

}  // extern "C"
