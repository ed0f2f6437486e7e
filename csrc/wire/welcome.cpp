// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>

#include "base/fields.h"
#include "wire/messages.h"

// The welcome: what an owner tells of itself, lane by lane.
namespace kvdirect {

namespace {

// No GPU has as much; sums of a few thousand of them do not overflow.
constexpr std::uint64_t max_allocation = std::uint64_t{1} << 48;

void check_allocations(FieldReader& io, const std::vector<CudaAccess::Allocation>& allocations) {
  io.require(!allocations.empty(), "allocations", "are missing");
  const auto descriptors =
      std::ranges::count(allocations, CudaAccess::Handle::descriptor, &CudaAccess::Allocation::kind);
  io.require(descriptors <= static_cast<std::ptrdiff_t>(limits::shared_memories), "allocations",
             "need more descriptors than the kernel passes");
}

void check_place(FieldReader& io, const CudaAccess::Place& place, std::span<const CudaAccess::Allocation> allocations) {
  if (place.count == 0) return;
  io.require(place.first < allocations.size() && place.count <= allocations.size() - place.first &&
                 place.offset < allocations[place.first].bytes,
             "region", "lies outside the allocations");
  const auto joined = allocations.subspan(place.first, place.count);
  const bool no_ipc = std::ranges::find(joined, CudaAccess::Handle::ipc, &CudaAccess::Allocation::kind) == joined.end();
  io.require(no_ipc || joined.size() == 1, "region", "spans allocations that cannot be joined");
}

}  // namespace

void fields(auto& io, Is<HostAccess> auto& host) {
  io.u64(host.pid, "pid");
  io.u64(host.incarnation_address, "incarnation address");
  io.u64(host.words_address, "lease words address");
  io.u32(host.words, "lease words");
  io.u64(host.nonce_address, "nonce address");
  io.raw(host.nonce, "nonce");
  list(io, host.regions, "regions", limits::regions, 8, [&io](auto& address) { io.u64(address, "region address"); });
}

void fields(auto& io, Is<RemoteMemory> auto& memory) {
  io.u64(memory.address, "memory address");
  io.sized(memory.key, "memory key", limits::memory_key);
}

void fields(auto& io, Is<RdmaAccess> auto& rdma) {
  const auto readable = [&io](auto& memory) {
    fields(io, memory);
    io.require(!memory.key.empty(), "memory key", "is empty");
  };
  io.sized(rdma.worker_address, "worker address", limits::worker_address);
  io.require(!rdma.worker_address.empty(), "worker address", "is empty");
  readable(rdma.words);
  io.u32(rdma.word_count, "lease words");
  readable(rdma.nonce_memory);
  io.raw(rdma.nonce, "nonce");
  list(io, rdma.regions, "regions", limits::regions, 12);
}

void fields(auto& io, Is<HandoffAccess> auto& handoff) {
  io.string(handoff.path, "handoff path", limits::unix_path);
  io.raw(handoff.secret, "handoff secret");
  io.raw(handoff.nonce, "handoff nonce");
  io.u32(handoff.words, "lease words");
}

void fields(auto& io, Is<ShmAccess> auto& shm) {
  fields(io, shm.handoff);
  list(io, shm.memories, "shared memories", limits::shared_memories, 8,
       [&io](auto& bytes) { io.u64(bytes, "shared memory bytes"); });
  list(io, shm.regions, "regions", limits::regions, 12, [&](auto& place) {
    io.u32(place.memory, "shared memory");
    io.u64(place.offset, "offset");
    io.require(place.memory < shm.memories.size() && place.offset < shm.memories[place.memory], "region",
               "lies outside the shared memories");
  });
}

void fields(auto& io, Is<CudaAccess::Allocation> auto& allocation) {
  io.choice(allocation.kind, CudaAccess::Handle::fabric, "handle kind");
  io.raw(allocation.handle, "handle");
  io.u64(allocation.bytes, "allocation bytes");
  io.require(allocation.bytes > 0 && allocation.bytes < max_allocation, "allocation bytes", "are out of range");
}

template <typename Io>
void fields(Io& io, Is<CudaAccess> auto& cuda) {
  fields(io, cuda.handoff);
  io.raw(cuda.device, "device");
  list(io, cuda.allocations, "allocations", limits::cuda_allocations, 73);
  if constexpr (Io::reads) check_allocations(io, cuda.allocations);
  list(io, cuda.regions, "regions", limits::regions, 16, [&](auto& place) {
    io.u32(place.first, "allocation");
    io.u32(place.count, "allocations of a region");
    io.u64(place.offset, "offset");
    if constexpr (Io::reads) check_place(io, place, cuda.allocations);
  });
}

void fields(auto& io, Is<Welcome> auto& welcome) {
  io.raw(welcome.nonce, "nonce");
  io.u8(welcome.streams, "streams");
  io.require(welcome.streams > 0 && welcome.streams <= limits::streams, "streams", "is out of range");
  io.optional(welcome.host, "host access flag");
  io.optional(welcome.rdma, "rdma access flag");
  io.optional(welcome.shm, "shm access flag");
  io.optional(welcome.cuda, "cuda access flag");
}

Bytes Welcome::encode() const { return encoded(*this); }
Welcome Welcome::decode(BytesView bytes) { return decoded<Welcome>(bytes, "welcome"); }

}  // namespace kvdirect
