// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "memory/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "memory/large_pages.h"

namespace kvdirect {

namespace {

// linux/mman.h and linux/fcntl.h; younger than some systems' headers.
constexpr int populate_read = 22;
constexpr int populate_write = 23;
constexpr int seal_future_write = 0x0010;
constexpr int wanted_seals = F_SEAL_SHRINK | F_SEAL_GROW;
// Memory cgroups count what is touched: in pieces, a limit that is too low is an error and not the end of the process.
constexpr std::size_t piece = std::size_t{64} << 20;

Error refused(const std::string& what, std::size_t bytes) {
  return {Errc::transport,
          "the kernel refused " + std::to_string(bytes) + " bytes of shared memory",
          {.operation = what, .status = strerror(errno), .hint = "see the memory limit of the container or user"}};
}

std::size_t whole_pages(std::size_t bytes) { return (bytes + large_page - 1) / large_page * large_page; }

// An address range of `bytes` that begins at a multiple of a large page, reserved.
std::byte* reserve(std::size_t bytes) {
  const std::size_t with_slack = bytes + large_page;
  void* range = mmap(nullptr, with_slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) throw refused("reserve addresses", bytes);
  auto* first = static_cast<std::byte*>(range);
  const auto misplaced = reinterpret_cast<std::uintptr_t>(first) % large_page;
  auto* aligned = misplaced == 0 ? first : first + (large_page - misplaced);
  if (aligned != first) munmap(first, static_cast<std::size_t>(aligned - first));
  const auto behind = static_cast<std::size_t>((first + with_slack) - (aligned + bytes));
  if (behind > 0) munmap(aligned + bytes, behind);
  return aligned;
}

std::byte* map(int fd, std::size_t bytes, int protection) {
  std::byte* where = reserve(bytes);
  if (mmap(where, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED) return where;
  const int status = errno;
  munmap(where, bytes);
  errno = status;
  throw refused("map shared memory", bytes);
}

// True if all of it got large pages.
bool make_resident(std::byte* data, std::size_t bytes) {
  bool large = true;
  for (std::size_t at = 0; at < bytes; at += piece) {
    const std::size_t length = std::min(piece, bytes - at);
    large = make_large(data + at, data + at + length) && large;
    // Before Linux 5.14 pages become resident when they are first used.
    if (madvise(data + at, length, populate_write) != 0 && errno != EINVAL) throw refused("touch shared memory", bytes);
  }
  return large;
}

Fd make_file(std::size_t bytes) {
  // Beyond this limit the kernel does not refuse: it ends the process. (setrlimit(2), SIGXFSZ)
  struct rlimit limit{};
  errno = EFBIG;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) throw refused("make a memfd", bytes);
  // A child has the memory too, and may publish it with an engine of its own.
  Fd file = Fd::shared_with_forks(memfd_create("kvdirect", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file || ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) throw refused("make a memfd", bytes);
  return file;
}

struct Registry {
  std::mutex mutex;
  std::map<const std::byte*, std::weak_ptr<SharedMemory>> live;  // by first address
};

Registry& registry() {
  static Registry all;
  return all;
}

}  // namespace

SharedMemory::SharedMemory(std::size_t bytes) : _size(bytes), _mapped(whole_pages(bytes)) {
  if (bytes == 0) throw Error(Errc::config, "shared memory of no bytes", {.operation = "allocate"});
  _fd = make_file(_mapped);
  _data = map(_fd.get(), _mapped, PROT_READ | PROT_WRITE);
  try {
    _large_pages = make_resident(_data, _mapped);
  } catch (...) {
    munmap(_data, _mapped);
    throw;
  }
  // Nobody can take pages away under a reader, and no reader can get write access.
  _sealed = fcntl(_fd.get(), F_ADD_SEALS, wanted_seals | seal_future_write | F_SEAL_SEAL) == 0;
}

SharedMemory::~SharedMemory() {
  {
    Registry& all = registry();
    const std::lock_guard lock(all.mutex);
    all.live.erase(_data);
  }
  munmap(_data, _mapped);
}

std::shared_ptr<SharedMemory> SharedMemory::make(std::size_t bytes) {
  auto memory = std::make_shared<SharedMemory>(bytes);
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.live[memory->data()] = memory;
  return memory;
}

std::shared_ptr<SharedMemory> SharedMemory::find(const void* address, std::size_t length) {
  const auto* first = static_cast<const std::byte*>(address);
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  auto next = all.live.upper_bound(first);
  if (next == all.live.begin()) return nullptr;
  auto memory = std::prev(next)->second.lock();
  if (!memory) return nullptr;
  const auto offset = static_cast<std::size_t>(first - memory->data());
  return offset <= memory->size() && length <= memory->size() - offset ? memory : nullptr;
}

MappedMemory::MappedMemory(Fd fd, std::size_t bytes) : _size(bytes), _mapped(whole_pages(bytes)) {
  const auto refuse = [](const std::string& why) { return Error(Errc::lane, why); };
  struct stat status{};
  if (fstat(fd.get(), &status) != 0) throw refuse("the owner's memory cannot be looked at");
  if (bytes == 0 || static_cast<std::uint64_t>(status.st_size) < _mapped)
    throw refuse("the owner's memory is too small");
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & wanted_seals) != wanted_seals) {
    throw refuse("the owner could take its memory away while it is read");
  }
  std::byte* data = map(fd.get(), _mapped, PROT_READ);
  // Page table entries now, not at the first pull; only a matter of time.
  madvise(data, _mapped, populate_read);
  _data = data;
}

MappedMemory::~MappedMemory() { munmap(const_cast<std::byte*>(_data), _mapped); }

}  // namespace kvdirect
