// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <vector>

#include "board.h"
#include "check.h"
#include "copy.h"
#include "error.h"
#include "shared_memory.h"

using namespace kvdirect;

namespace {

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
  CHECK(ftruncate(loose.get(), SharedMemory::large_page) == 0);
  CHECK_THROWS_WITH(MappedMemory(duplicate(loose.get()), 4096), Errc::lane, "take its memory away");
  const auto memory = SharedMemory::make(4096);
  CHECK_THROWS_WITH(MappedMemory(duplicate(memory->fd()), 2 * SharedMemory::large_page), Errc::lane, "too small");
  CHECK_THROWS_WITH(MappedMemory(Fd(), 4096), Errc::lane, "cannot be looked at");
}

TEST(a_board_shows_the_same_whether_it_is_shared_or_not) {
  for (const bool shared : {false, true}) {
    const Board board(42, 8, shared);
    CHECK((board.memory() != nullptr) == shared);
    CHECK(board.head().incarnation.load() == 42);
    LeaseTable leases(8, LeaseTable::Seconds{10}, board.words());
    const auto lease = leases.reserve();
    CHECK(lease.has_value() && board.words()[lease->slot].epoch.load() == lease->epoch);
    if (!shared) continue;
    const MappedMemory view(duplicate(board.memory()->fd()), Board::bytes(8));
    const auto* words = reinterpret_cast<const LeaseWord*>(view.bytes().data() + Board::words_offset);
    CHECK(words[lease->slot].epoch.load() == lease->epoch);
  }
}

TEST(blocks_are_copied_whole_wherever_they_begin) {
  std::vector<std::byte> from(70'000);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 31 >> 3);
  for (const std::size_t bytes : {0, 1, 31, 4096, 16 << 10, (16 << 10) + 1, 40'007}) {
    for (const std::size_t shift : {0, 1, 31, 33}) {
      std::vector<std::byte> to(70'000, std::byte{0xee});
      copy_block(to.data() + shift, from.data() + 2 * shift, bytes);
      copies_done();
      CHECK(std::memcmp(to.data() + shift, from.data() + 2 * shift, bytes) == 0);
      CHECK(to[shift + bytes] == std::byte{0xee});
      CHECK(shift == 0 || to[shift - 1] == std::byte{0xee});
    }
  }
}
