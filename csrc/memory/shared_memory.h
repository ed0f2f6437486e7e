// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/non_copyable.h"

namespace kvdirect {

// Memory that other processes of this host can map, read-only, once they were given its descriptor: a sealed memfd,
// with pages of 2 MiB where the kernel gives them. Zeroed and resident from the start.
class SharedMemory : NonCopyable {
 public:
  // Throws Error(config) for no bytes, Error(transport) where the kernel has not so many.
  explicit SharedMemory(std::size_t bytes);
  ~SharedMemory();

  [[nodiscard]] std::byte* data() const noexcept { return _data; }
  // As asked for; the mapping is a whole number of large pages.
  [[nodiscard]] std::size_t size() const noexcept { return _size; }
  [[nodiscard]] int fd() const noexcept { return _fd.get(); }
  // The kernel keeps whoever is given the descriptor from writing, and from taking pages away. Else nobody is to be
  // given it, and it is memory as any other.
  [[nodiscard]] bool sealed() const noexcept { return _sealed; }
  // All of it is in pages of 2 MiB.
  [[nodiscard]] bool large_pages() const noexcept { return _large_pages; }

  // The live one that holds this address, with all `length` bytes; null if none does.
  static std::shared_ptr<SharedMemory> find(const void* address, std::size_t length);
  static std::shared_ptr<SharedMemory> make(std::size_t bytes);

 private:
  Fd _fd;
  std::byte* _data = nullptr;
  std::size_t _size = 0;
  std::size_t _mapped = 0;
  bool _large_pages = false;
  bool _sealed = false;
};

// What a kernel lacks whose memory is not sealed.
inline constexpr const char* no_seals =
    "this kernel cannot keep readers from writing to memory that they map (F_SEAL_FUTURE_WRITE, Linux 5.1)";

// Another process's shared memory, mapped for reading.
class MappedMemory : NonCopyable {
 public:
  // `bytes`: as the owner says. Checks that it is so and will stay so. Throws Error(lane).
  MappedMemory(Fd fd, std::size_t bytes);
  ~MappedMemory();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {_data, _size}; }

 private:
  const std::byte* _data = nullptr;
  std::size_t _size = 0;
  std::size_t _mapped = 0;
};

}  // namespace kvdirect
