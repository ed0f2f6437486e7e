// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/fd.h"

namespace kvdirect::sim {

enum class Kind { plain, imported, vmm, host };

// Bytes of a GPU, in a memory file. Its name says what it is, for whoever opens it in another process.
class Memory {
 public:
  // Throws Refusal(CUDA_ERROR_OUT_OF_MEMORY).
  [[nodiscard]] static std::shared_ptr<Memory> make(Kind kind, unsigned gpu, std::size_t size, unsigned handle_types);
  // What another process made; null: `fd` is something else.
  [[nodiscard]] static std::shared_ptr<Memory> adopt(Fd fd);

  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();

  [[nodiscard]] int fd() const noexcept { return _fd.get(); }
  [[nodiscard]] Kind kind() const noexcept { return _kind; }
  [[nodiscard]] unsigned gpu() const noexcept { return _gpu; }
  [[nodiscard]] std::size_t size() const noexcept { return _size; }
  [[nodiscard]] unsigned handle_types() const noexcept { return _handle_types; }
  [[nodiscard]] std::uint64_t id() const noexcept { return _id; }

  // Another process has it open from now on, as long as this object is there.
  void mark_open() const noexcept;
  // cuMemFree of memory that other processes may have open: they are to stop before, and can tell.
  void mark_freed() const noexcept;
  [[nodiscard]] bool freed() const noexcept;

 private:
  Memory(Fd fd, Kind kind, unsigned gpu, std::size_t size, unsigned handle_types, std::uint64_t id, bool own);

  const Fd _fd;
  const Kind _kind;
  const unsigned _gpu;
  const std::size_t _size;
  const unsigned _handle_types;
  const std::uint64_t _id;
  const bool _own;  // it takes from this process's part of the GPU
};

// How often memory was freed while another process had it open.
[[nodiscard]] std::size_t freed_while_open();

// A range of the simulated GPU's addresses, which are addresses of the process too and never given twice.
struct Addresses {
  std::uintptr_t start = 0;
  std::size_t size = 0;  // of whole pages
};

// Throws Refusal(CUDA_ERROR_OUT_OF_MEMORY).
[[nodiscard]] Addresses reserve_addresses(std::size_t size, std::size_t alignment);
// Memory from its start at `start`. `size`: of whole pages.
void place(const Memory& memory, std::uintptr_t start, std::size_t size);
// The reverse.
void displace(std::uintptr_t start, std::size_t size);

// Where the simulated GPU finds what is placed at an address: there, or, where KVDIRECT_SIM_CUDA_GUARD is set, this
// many bytes further. The host may then not touch the memory, as it may not touch a GPU's.
[[nodiscard]] std::uintptr_t displacement();

[[nodiscard]] std::size_t whole_pages(std::size_t size);

}  // namespace kvdirect::sim
