// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "context.h"
#include "mappings.h"

// Legacy handles: good in other processes only, for memory of cuMemAlloc, while the process that made it lives.
namespace kvdirect::sim {

namespace {

struct Handle {
  std::uint64_t magic;
  std::int32_t process;
  std::int32_t fd;
  std::uint64_t size;
  std::uint64_t id;
  unsigned char reserved[CU_IPC_HANDLE_SIZE - 32];
};
static_assert(sizeof(Handle) == sizeof(CUipcMemHandle));
constexpr std::uint64_t magic = 0x6b76642d73696d31;

std::shared_ptr<const Memory> open(const Context& context, const Handle& handle) {
  const std::string path = "/proc/" + std::to_string(handle.process) + "/fd/" + std::to_string(handle.fd);
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd) refuse(CUDA_ERROR_MAP_FAILED, "process " + std::to_string(handle.process) + " is gone, or out of reach");
  auto memory = Memory::adopt(std::move(fd));
  if (!memory || memory->id() != handle.id || memory->size() != handle.size || memory->freed()) {
    refuse(CUDA_ERROR_MAP_FAILED, "the memory was freed");
  }
  check_reach(context, memory->gpu());
  memory->mark_open();
  return memory;
}

MappingTable::iterator find_opened(const Context& context, std::uint64_t id) {
  return std::ranges::find_if(mappings().table, [&](const auto& entry) {
    const Mapping& mapping = entry.second;
    return mapping.kind == Kind::imported && mapping.owner == &context && mapping.memory->id() == id;
  });
}

}  // namespace

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuIpcGetMemHandle(CUipcMemHandle* out, CUdeviceptr address) {
  return call_in_context("cuIpcGetMemHandle", [&](const Context&) {
    if (!out) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the handle");
    const std::shared_lock lock(mappings().mutex);
    const Mapping& mapping = need_mapping(address)->second;
    if (mapping.kind != Kind::plain) refuse(CUDA_ERROR_INVALID_VALUE, hex(address) + " is not cuMemAlloc's memory");
    const Memory& memory = *mapping.memory;
    const Handle handle{magic, getpid(), memory.fd(), memory.size(), memory.id(), {}};
    std::memcpy(out, &handle, sizeof handle);
  });
}

CUresult CUDAAPI cuIpcOpenMemHandle(CUdeviceptr* address, CUipcMemHandle given, unsigned int flags) {
  return call_in_context("cuIpcOpenMemHandle", [&](const Context& context) {
    if (!address) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the address");
    if (flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) {
      refuse(CUDA_ERROR_INVALID_VALUE, "flags must be CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS");
    }
    Handle handle{};
    std::memcpy(&handle, &given, sizeof handle);
    if (handle.magic != magic) refuse(CUDA_ERROR_INVALID_VALUE, "that is no handle of cuIpcGetMemHandle");
    if (handle.process == getpid()) refuse(CUDA_ERROR_INVALID_CONTEXT, "the handle is of this very process");
    const std::unique_lock lock(mappings().mutex);
    if (const auto opened = find_opened(context, handle.id); opened != mappings().table.end()) {
      ++opened->second.opened;
      *address = opened->first;
      return;
    }
    *address = add_mapping(
        open(context, handle),
        {.kind = Kind::imported, .owner = &context, .readers = context.gpu_bit(), .writers = context.gpu_bit()});
  });
}

// Does not wait for work in flight: CUDA promises no such wait.
CUresult CUDAAPI cuIpcCloseMemHandle(CUdeviceptr address) {
  return call_in_context("cuIpcCloseMemHandle", [&](const Context& context) {
    const std::unique_lock lock(mappings().mutex);
    const auto found = mappings().table.find(address);
    if (found == mappings().table.end() || found->second.kind != Kind::imported) {
      refuse(CUDA_ERROR_INVALID_VALUE, hex(address) + " is not what cuIpcOpenMemHandle gave, or is closed already");
    }
    if (found->second.owner != &context) refuse(CUDA_ERROR_INVALID_CONTEXT, "another context opened it");
    if (--found->second.opened == 0) drop_mapping(found);
  });
}

}  // extern "C"
