// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/fetch_ahead.h"
#include "check.h"
#include "memory/block_copy.h"
#include "memory/control_page.h"
#include "memory/large_pages.h"
#include "memory/regions.h"
#include "memory/shared_memory.h"

using namespace kvdirect;

namespace {

// Bytes on pages of 2 MiB in the mapping that begins at or before `data`.
std::size_t large_bytes(const std::byte* data) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool ours = false;
  while (std::getline(maps, line)) {
    unsigned long first = 0;
    unsigned long last = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2) {
      const auto wanted = reinterpret_cast<std::uintptr_t>(data);
      ours = first <= wanted && wanted < last;
    }
    unsigned long kilobytes = 0;
    if (ours && std::sscanf(line.c_str(), "AnonHugePages: %lu kB", &kilobytes) == 1) return kilobytes * 1024;
  }
  return 0;
}

// The kernel knows MADV_COLLAPSE.
bool has_collapse() {
  auto* data = static_cast<std::byte*>(
      mmap(nullptr, 2 * large_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memset(data, 1, 2 * large_page);
  auto* first = data + (large_page - reinterpret_cast<std::uintptr_t>(data) % large_page) % large_page;
  const bool known = collapse_pages(first, first + large_page);
  munmap(data, 2 * large_page);
  return known;
}

// From now on this thread's kernel is one before 5.1: it does not know F_SEAL_FUTURE_WRITE.
bool forget_future_write() {
  const auto at = [](std::size_t argument) {
    return static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * argument);
  };
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_fcntl, 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at(1)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, F_ADD_SEALS, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at(2)),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x0010, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

Fd duplicate(int fd) { return Fd(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

}  // namespace

TEST(shared_memory_is_read_by_whoever_has_its_descriptor_and_written_by_nobody) {
  const auto memory = SharedMemory::make(100'000);
  CHECK(memory->data()[0] == std::byte{0} && memory->data()[99'999] == std::byte{0});
  const MappedMemory view(duplicate(memory->fd()), 100'000);
  memory->data()[70'000] = std::byte{7};
  CHECK(view.bytes()[70'000] == std::byte{7});
  CHECK(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd(), 0) == MAP_FAILED);
  CHECK(ftruncate(memory->fd(), 0) != 0);
  const std::byte byte{1};
  CHECK(pwrite(memory->fd(), &byte, 1, 0) != 1);
}

TEST(shared_memory_is_found_by_its_addresses_while_it_lives) {
  auto memory = SharedMemory::make(10'000);
  std::byte* data = memory->data();
  CHECK(SharedMemory::find(data, 10'000) == memory);
  CHECK(SharedMemory::find(data + 9'999, 1) == memory);
  CHECK(SharedMemory::find(data + 9'999, 2) == nullptr);
  const auto* before = reinterpret_cast<const std::byte*>(reinterpret_cast<std::uintptr_t>(data) - 1);
  CHECK(SharedMemory::find(before, 1) == nullptr);
  memory.reset();
  CHECK(SharedMemory::find(data, 1) == nullptr);
  CHECK_THROWS_WITH(SharedMemory::make(0), Errc::config, "no bytes");
}

TEST(memory_that_could_vanish_is_not_mapped) {
  const Fd loose(memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK(ftruncate(loose.get(), large_page) == 0);
  CHECK_THROWS_WITH(MappedMemory(duplicate(loose.get()), 4096), Errc::lane, "take its memory away");
  const auto memory = SharedMemory::make(4096);
  CHECK_THROWS_WITH(MappedMemory(duplicate(memory->fd()), 2 * large_page), Errc::lane, "too small");
  CHECK_THROWS_WITH(MappedMemory(Fd(), 4096), Errc::lane, "cannot be looked at");
}

TEST(a_board_shows_the_same_whether_it_is_shared_or_not) {
  for (const bool shared : {false, true}) {
    const ControlPage control_page(42, 8, shared);
    CHECK((control_page.memory() != nullptr) == shared);
    CHECK(control_page.head().incarnation.load() == 42);
    LeaseTable leases(8, LeaseTable::Seconds{10}, control_page.words());
    const auto lease = leases.reserve();
    CHECK(lease.has_value() && control_page.words()[lease->slot].epoch.load() == lease->epoch);
    if (!shared) continue;
    const MappedMemory view(duplicate(control_page.memory()->fd()), ControlPage::bytes(8));
    const auto* words = reinterpret_cast<const LeaseWord*>(view.bytes().data() + ControlPage::words_offset);
    CHECK(words[lease->slot].epoch.load() == lease->epoch);
  }
}

TEST(blocks_are_copied_whole_wherever_they_begin) {
  std::vector<std::byte> from(70'000);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 31 >> 3);
  for (const std::size_t bytes : {0, 1, 31, 255, 256, 257, 400, 1000, 4096, 16 << 10, (16 << 10) + 1, 40'007}) {
    for (std::size_t shift = 0; shift <= 65; ++shift) {
      for (const Use use : {Use::soon, Use::late}) {
        std::vector<std::byte> to(70'000, std::byte{0xee});
        fetch_ahead(from.data() + 2 * shift, bytes);
        copy_block(to.data() + shift, from.data() + 2 * shift, bytes, use);
        copies_done();
        CHECK(std::memcmp(to.data() + shift, from.data() + 2 * shift, bytes) == 0);
        CHECK(to[shift + bytes] == std::byte{0xee});
        CHECK(shift == 0 || to[shift - 1] == std::byte{0xee});
      }
    }
  }
}

TEST(memory_in_use_is_put_on_large_pages_and_keeps_its_contents) {
  if (!has_collapse()) return;
  const std::size_t bytes = 4 * large_page;
  auto* data =
      static_cast<std::byte*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (std::size_t at = 0; at < bytes; at += 4096) data[at] = static_cast<std::byte>(at / 4096);
  ask_for_large_pages(data, bytes, std::chrono::steady_clock::now());
  CHECK(large_bytes(data) == 0);  // no time
  ask_for_large_pages(data + 64, bytes - 64, std::chrono::steady_clock::now() + std::chrono::seconds(60));
  CHECK(large_bytes(data) >= 2 * large_page);
  for (std::size_t at = 0; at < bytes; at += 4096) CHECK(data[at] == static_cast<std::byte>(at / 4096));
  munmap(data, bytes);
}

TEST(memory_that_wants_small_pages_keeps_them) {
  const std::size_t bytes = 4 * large_page;
  auto* data =
      static_cast<std::byte*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(data, bytes, MADV_NOHUGEPAGE);
  std::memset(data, 1, bytes);
  ask_for_large_pages(data, bytes, std::chrono::steady_clock::now() + std::chrono::seconds(60));
  CHECK(large_bytes(data) == 0);
  munmap(data, bytes);
}

TEST(memory_that_the_kernel_cannot_seal_is_handed_to_nobody) {
  std::jthread([] {  // a filter is its thread's
    CHECK(forget_future_write());
    const auto memory = SharedMemory::make(large_page);
    CHECK(!memory->sealed());
    memory->data()[0] = std::byte{1};  // it is memory all the same
    const ControlPage page(7, 4, true);
    CHECK(page.memory() == nullptr);
    CHECK(page.why_not_shared().find("F_SEAL_FUTURE_WRITE") != std::string::npos);
    bool refused = false;
    try {
      (void)SharedRegions::of({{memory->data(), memory->size(), MemoryKind::host}});
    } catch (const Error& error) {
      refused = std::string(error.what()).find("cannot keep readers from writing") != std::string::npos;
    }
    CHECK(refused);
  })
      .join();
  CHECK(SharedMemory::make(large_page)->sealed());
}
