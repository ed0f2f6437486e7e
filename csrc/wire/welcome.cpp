// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>

#include "base/codec.h"
#include "wire/fields.h"
#include "wire/messages.h"

// The welcome: what an owner tells of itself, lane by lane.
namespace kvdirect {

namespace {

// No GPU has as much; sums of a few thousand of them do not overflow.
constexpr std::uint64_t max_allocation = std::uint64_t{1} << 48;

void put_host(Writer& writer, const HostAccess& host) {
  writer.u64(host.pid);
  writer.u64(host.incarnation_address);
  writer.u64(host.words_address);
  writer.u32(host.words);
  writer.u64(host.nonce_address);
  writer.raw(host.nonce);
  writer.u32(static_cast<std::uint32_t>(host.regions.size()));
  for (const std::uint64_t address : host.regions) writer.u64(address);
}

HostAccess get_host(Reader& reader) {
  HostAccess host;
  host.pid = reader.u64("pid");
  host.incarnation_address = reader.u64("incarnation address");
  host.words_address = reader.u64("lease words address");
  host.words = reader.u32("lease words");
  host.nonce_address = reader.u64("nonce address");
  host.nonce = get_token(reader, "nonce");
  host.regions.resize(reader.count("regions", limits::regions, 8));
  for (std::uint64_t& address : host.regions) address = reader.u64("region address");
  return host;
}

void put_memory(Writer& writer, const RemoteMemory& memory) {
  writer.u64(memory.address);
  writer.sized(memory.key);
}

RemoteMemory get_region(Reader& reader) {
  RemoteMemory memory;
  memory.address = reader.u64("memory address");
  memory.key = reader.sized("memory key", limits::memory_key);
  return memory;
}

RemoteMemory get_memory(Reader& reader) {
  RemoteMemory memory = get_region(reader);
  if (memory.key.empty()) reader.fail("memory key", "is empty");
  return memory;
}

void put_rdma(Writer& writer, const RdmaAccess& rdma) {
  writer.sized(rdma.worker_address);
  put_memory(writer, rdma.words);
  writer.u32(rdma.word_count);
  put_memory(writer, rdma.nonce_memory);
  writer.raw(rdma.nonce);
  writer.u32(static_cast<std::uint32_t>(rdma.regions.size()));
  for (const RemoteMemory& region : rdma.regions) put_memory(writer, region);
}

RdmaAccess get_rdma(Reader& reader) {
  RdmaAccess rdma;
  rdma.worker_address = reader.sized("worker address", limits::worker_address);
  if (rdma.worker_address.empty()) reader.fail("worker address", "is empty");
  rdma.words = get_memory(reader);
  rdma.word_count = reader.u32("lease words");
  rdma.nonce_memory = get_memory(reader);
  rdma.nonce = get_token(reader, "nonce");
  rdma.regions.resize(reader.count("regions", limits::regions, 12));
  for (RemoteMemory& region : rdma.regions) region = get_region(reader);
  return rdma;
}

void put_handoff(Writer& writer, const HandoffAccess& handoff) {
  writer.string(handoff.path);
  writer.raw(handoff.secret);
  writer.raw(handoff.nonce);
  writer.u32(handoff.words);
}

HandoffAccess get_handoff(Reader& reader) {
  HandoffAccess handoff;
  handoff.path = reader.string("handoff path", limits::unix_path);
  handoff.secret = get_token(reader, "handoff secret");
  handoff.nonce = get_token(reader, "handoff nonce");
  handoff.words = reader.u32("lease words");
  return handoff;
}

void put_shm(Writer& writer, const ShmAccess& shm) {
  put_handoff(writer, shm.handoff);
  writer.u32(static_cast<std::uint32_t>(shm.memories.size()));
  for (const std::uint64_t bytes : shm.memories) writer.u64(bytes);
  writer.u32(static_cast<std::uint32_t>(shm.regions.size()));
  for (const ShmAccess::Place& place : shm.regions) {
    writer.u32(place.memory);
    writer.u64(place.offset);
  }
}

ShmAccess get_shm(Reader& reader) {
  ShmAccess shm;
  shm.handoff = get_handoff(reader);
  shm.memories.resize(reader.count("shared memories", limits::shared_memories, 8));
  for (std::uint64_t& bytes : shm.memories) bytes = reader.u64("shared memory bytes");
  shm.regions.resize(reader.count("regions", limits::regions, 12));
  for (ShmAccess::Place& place : shm.regions) {
    place.memory = reader.u32("shared memory");
    place.offset = reader.u64("offset");
    if (place.memory >= shm.memories.size() || place.offset >= shm.memories[place.memory]) {
      reader.fail("region", "lies outside the shared memories");
    }
  }
  return shm;
}

void put_cuda(Writer& writer, const CudaAccess& cuda) {
  put_handoff(writer, cuda.handoff);
  writer.raw(cuda.device);
  writer.u32(static_cast<std::uint32_t>(cuda.allocations.size()));
  for (const CudaAccess::Allocation& allocation : cuda.allocations) {
    writer.u8(static_cast<std::uint8_t>(allocation.kind));
    writer.raw(allocation.handle);
    writer.u64(allocation.bytes);
  }
  writer.u32(static_cast<std::uint32_t>(cuda.regions.size()));
  for (const CudaAccess::Place& place : cuda.regions) {
    writer.u32(place.first);
    writer.u32(place.count);
    writer.u64(place.offset);
  }
}

CudaAccess::Allocation get_allocation(Reader& reader) {
  CudaAccess::Allocation allocation;
  const std::uint8_t kind = reader.u8("handle kind");
  if (kind > static_cast<std::uint8_t>(CudaAccess::Handle::fabric)) reader.fail("handle kind", "is unknown");
  allocation.kind = static_cast<CudaAccess::Handle>(kind);
  std::ranges::copy(reader.raw(allocation.handle.size(), "handle"), allocation.handle.begin());
  allocation.bytes = reader.u64("allocation bytes");
  if (allocation.bytes == 0 || allocation.bytes >= max_allocation) reader.fail("allocation bytes", "are out of range");
  return allocation;
}

CudaAccess::Place get_place(Reader& reader, const std::vector<CudaAccess::Allocation>& allocations) {
  CudaAccess::Place place;
  place.first = reader.u32("allocation");
  place.count = reader.u32("allocations of a region");
  place.offset = reader.u64("offset");
  if (place.count == 0) return place;
  if (place.first >= allocations.size() || place.count > allocations.size() - place.first ||
      place.offset >= allocations[place.first].bytes) {
    reader.fail("region", "lies outside the allocations");
  }
  for (std::uint32_t i = place.first; place.count > 1 && i < place.first + place.count; ++i) {
    if (allocations[i].kind == CudaAccess::Handle::ipc)
      reader.fail("region", "spans allocations that cannot be joined");
  }
  return place;
}

CudaAccess get_cuda(Reader& reader) {
  CudaAccess cuda;
  cuda.handoff = get_handoff(reader);
  cuda.device = get_token(reader, "device");
  cuda.allocations.resize(reader.count("allocations", limits::cuda_allocations, 73));
  for (CudaAccess::Allocation& allocation : cuda.allocations) allocation = get_allocation(reader);
  if (cuda.allocations.empty()) reader.fail("allocations", "are missing");
  const auto descriptors =
      std::ranges::count(cuda.allocations, CudaAccess::Handle::descriptor, &CudaAccess::Allocation::kind);
  if (descriptors > static_cast<std::ptrdiff_t>(limits::shared_memories)) {
    reader.fail("allocations", "need more descriptors than the kernel passes");
  }
  cuda.regions.resize(reader.count("regions", limits::regions, 16));
  for (CudaAccess::Place& place : cuda.regions) place = get_place(reader, cuda.allocations);
  return cuda;
}

}  // namespace

Bytes Welcome::encode() const {
  Writer writer;
  writer.raw(nonce);
  writer.u8(static_cast<std::uint8_t>(streams));
  writer.u8(host.has_value() ? 1 : 0);
  if (host.has_value()) put_host(writer, *host);
  writer.u8(rdma.has_value() ? 1 : 0);
  if (rdma.has_value()) put_rdma(writer, *rdma);
  writer.u8(shm.has_value() ? 1 : 0);
  if (shm.has_value()) put_shm(writer, *shm);
  writer.u8(cuda.has_value() ? 1 : 0);
  if (cuda.has_value()) put_cuda(writer, *cuda);
  return writer.take();
}

Welcome Welcome::decode(BytesView bytes) {
  Reader reader(bytes, "welcome");
  Welcome welcome;
  welcome.nonce = get_token(reader, "nonce");
  welcome.streams = reader.u8("streams");
  if (welcome.streams == 0 || welcome.streams > limits::streams) reader.fail("streams", "is out of range");
  if (get_flag(reader, "host access flag")) welcome.host = get_host(reader);
  if (get_flag(reader, "rdma access flag")) welcome.rdma = get_rdma(reader);
  if (get_flag(reader, "shm access flag")) welcome.shm = get_shm(reader);
  if (get_flag(reader, "cuda access flag")) welcome.cuda = get_cuda(reader);
  reader.finish();
  return welcome;
}

}  // namespace kvdirect
