// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "fd.h"

namespace kvdirect {

// Memory that other processes of this host can map, read-only, once they were given its descriptor: a sealed memfd,
// with pages of 2 MiB where the kernel gives them. Zeroed and resident from the start.
class SharedMemory {
 public:
  // Throws Error(config) for no bytes, Error(transport) where the kernel has not so many.
  explicit SharedMemory(std::size_t bytes);
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();

  // Moves memory that somebody else allocated onto such memory, where it is and with what it holds; its first and last
  // page are shared whole. Nobody may write to it meanwhile, nor during give_back(). Throws Error(lane) where that is
  // not safe.
  static std::shared_ptr<SharedMemory> adopt(std::byte* data, std::size_t bytes);
  // One more engine offers it to readers.
  void take() noexcept { ++_users; }
  // One fewer does. With the last, adopted memory is moved back: it must be before it is freed, or its allocator would
  // be surprised.
  void give_back() noexcept;

  [[nodiscard]] std::byte* data() const noexcept { return _data; }
  // As asked for; the file is a whole number of large pages. Adopted memory begins somewhere in the first of them.
  [[nodiscard]] std::size_t size() const noexcept { return _size; }
  [[nodiscard]] int fd() const noexcept { return _fd.get(); }
  // All of it is in pages of 2 MiB.
  [[nodiscard]] bool large_pages() const noexcept { return _large_pages; }

  // The live one that holds this address, with all `length` bytes; null if none does.
  static std::shared_ptr<SharedMemory> find(const void* address, std::size_t length);
  static std::shared_ptr<SharedMemory> make(std::size_t bytes);

 private:
  // Adopts. `first` and `last` are page boundaries.
  SharedMemory(std::byte* first, std::byte* last);
  void seal() const noexcept;
  static void remember(const std::shared_ptr<SharedMemory>& memory);
  void forget() const noexcept;
  [[nodiscard]] const std::byte* first() const noexcept { return _first; }

  Fd _fd;
  std::byte* _data = nullptr;
  std::size_t _size = 0;
  std::size_t _mapped = 0;
  bool _large_pages = false;
  const std::byte* _first = nullptr;  // of the bytes that are there: behind _data if adopted
  bool _owned = true;                 // false: adopted
  std::atomic<int> _users{0};
};

// Another process's shared memory, mapped for reading.
class MappedMemory {
 public:
  // `bytes`: as the owner says. Checks that it is so and will stay so. Throws Error(lane).
  MappedMemory(Fd fd, std::size_t bytes);
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;
  ~MappedMemory();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {_data, _size}; }

 private:
  const std::byte* _data = nullptr;
  std::size_t _size = 0;
  std::size_t _mapped = 0;
};

}  // namespace kvdirect
