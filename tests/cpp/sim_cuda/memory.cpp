// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "memory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <random>

#include "call.h"

namespace kvdirect::sim {

namespace {

// Of a process's own memory on all GPUs. More than any test needs, so that asking for too much can be tested.
constexpr std::size_t gpu_bytes = std::size_t{64} << 30;
// Of addresses, for all that a process ever allocates.
constexpr std::size_t arena_bytes = std::size_t{256} << 30;
constexpr std::size_t page = 4096;
// A seal that changes nothing for us, read as "freed".
constexpr int freed_seal = F_SEAL_GROW;
constexpr const char* name_format = "kvdirect_sim_cuda.%u.%u.%zx.%x.%" PRIx64;

std::atomic<std::size_t> taken = 0;
std::atomic<std::size_t> open_when_freed = 0;

[[noreturn]] void refuse_memory(const char* what) { refuse(CUDA_ERROR_OUT_OF_MEMORY, std::string(what) + " failed"); }

std::uint64_t random_number() {
  std::random_device random;
  return std::uint64_t{random()} << 32 | random();
}

// All addresses there are.
struct Arena {
  std::mutex mutex;
  std::uintptr_t next = 0;
  std::uintptr_t end = 0;
  std::uintptr_t displacement = 0;
};

std::uintptr_t reserve_arena() {
  void* at = mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) refuse_memory("reserving addresses");
  return reinterpret_cast<std::uintptr_t>(at);
}

Arena& arena() {
  static auto& made = *[] {
    auto fresh = std::make_unique<Arena>();
    fresh->next = reserve_arena();
    fresh->end = fresh->next + arena_bytes;
    if (std::getenv("KVDIRECT_SIM_CUDA_GUARD")) fresh->displacement = reserve_arena() - fresh->next;
    return fresh.release();
  }();
  return made;
}

void* shown(std::uintptr_t start) { return reinterpret_cast<void*>(start + displacement()); }

}  // namespace

Memory::Memory(Fd fd, Kind kind, unsigned gpu, std::size_t size, unsigned handle_types, std::uint64_t id, bool own)
    : _fd(std::move(fd)), _kind(kind), _gpu(gpu), _size(size), _handle_types(handle_types), _id(id), _own(own) {}

Memory::~Memory() {
  if (_own) taken -= _size;
}

std::shared_ptr<Memory> Memory::make(Kind kind, unsigned gpu, std::size_t size, unsigned handle_types) {
  if (size > gpu_bytes || taken.fetch_add(size) + size > gpu_bytes) {
    if (size <= gpu_bytes) taken -= size;
    refuse(CUDA_ERROR_OUT_OF_MEMORY, "the simulated GPU has no " + std::to_string(size) + " bytes left");
  }
  const std::uint64_t id = random_number();
  std::array<char, 128> name{};
  static_cast<void>(
      std::snprintf(name.data(), name.size(), name_format, static_cast<unsigned>(kind), gpu, size, handle_types, id));
  std::shared_ptr<Memory> made(new Memory(Fd(memfd_create(name.data(), MFD_CLOEXEC | MFD_ALLOW_SEALING)), kind, gpu,
                                          size, handle_types, id, true));
  if (!made->_fd || ftruncate(made->fd(), static_cast<off_t>(whole_pages(size))) != 0) refuse_memory("memfd_create");
  return made;
}

std::shared_ptr<Memory> Memory::adopt(Fd fd) {
  const std::string link = "/proc/self/fd/" + std::to_string(fd.get());
  std::array<char, 256> name{};
  if (readlink(link.c_str(), name.data(), name.size() - 1) < 0) return nullptr;
  unsigned kind = 0;
  unsigned gpu = 0;
  std::size_t size = 0;
  unsigned handle_types = 0;
  std::uint64_t id = 0;
  const std::string format = std::string("/memfd:") + name_format;
  // NOLINTNEXTLINE: the format is ours
  if (std::sscanf(name.data(), format.c_str(), &kind, &gpu, &size, &handle_types, &id) != 5) return nullptr;
  return std::shared_ptr<Memory>(
      new Memory(std::move(fd), static_cast<Kind>(kind), gpu, size, handle_types, id, false));
}

// A lock, which ends with the process too.
void Memory::mark_open() const noexcept { static_cast<void>(flock(fd(), LOCK_SH)); }

void Memory::mark_freed() const noexcept {
  static_cast<void>(fcntl(fd(), F_ADD_SEALS, freed_seal));
  if (_kind != Kind::plain || flock(fd(), LOCK_EX | LOCK_NB) == 0) return;
  ++open_when_freed;
  say("memory is freed that another process has open");
}
std::size_t freed_while_open() { return open_when_freed; }
bool Memory::freed() const noexcept { return (fcntl(fd(), F_GET_SEALS) & freed_seal) != 0; }

std::size_t whole_pages(std::size_t size) { return (size + page - 1) / page * page; }

Addresses reserve_addresses(std::size_t size, std::size_t alignment) {
  const std::size_t wanted = whole_pages(size);
  Arena& all = arena();
  const std::lock_guard lock(all.mutex);
  const std::size_t multiple = std::max(alignment, page);
  const std::uintptr_t start = (all.next + multiple - 1) / multiple * multiple;
  if (wanted < size || start + page > all.end || wanted > all.end - start - page) refuse_memory("reserving addresses");
  // Nothing follows at once, so that what runs past the end is seen.
  all.next = start + wanted + page;
  return {start, wanted};
}

void place(const Memory& memory, std::uintptr_t start, std::size_t size) {
  const auto map = [&](void* at) {
    if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory.fd(), 0) == MAP_FAILED) {
      refuse_memory("mmap");
    }
  };
  map(shown(start));
  // Pinned memory is the host's as well.
  if (memory.kind() == Kind::host && displacement() != 0) map(reinterpret_cast<void*>(start));
}

void displace(std::uintptr_t start, std::size_t size) {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  for (void* at : {shown(start), reinterpret_cast<void*>(start)}) {
    if (mmap(at, size, PROT_NONE, flags, -1, 0) == MAP_FAILED) {
      undefined("the simulated GPU cannot take memory away: mmap failed");
    }
  }
}

std::uintptr_t displacement() { return arena().displacement; }

}  // namespace kvdirect::sim
