// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cuda/handles.h"

// Memory and streams of a GPU for tests, which so need nothing but the driver.
namespace kvdirect {

// Memory of GPU 0, as cudaMalloc gives it, or mapped through the driver's virtual memory management in pieces.
class TestMemory {
 public:
  // `pieces`: 0: as cudaMalloc; else as many allocations in a row, `exportable` or not.
  TestMemory(std::size_t bytes, unsigned pieces, bool exportable);
  TestMemory(const TestMemory&) = delete;
  TestMemory& operator=(const TestMemory&) = delete;
  ~TestMemory();

  [[nodiscard]] std::uint64_t address() const noexcept { return _address; }
  [[nodiscard]] std::size_t bytes() const noexcept { return _bytes; }
  [[nodiscard]] const ContextPtr& context() const noexcept { return _context; }
  void write(std::size_t offset, std::span<const std::byte> data);
  [[nodiscard]] std::vector<std::byte> read(std::size_t offset, std::size_t bytes) const;

 private:
  void map(unsigned pieces, bool exportable);

  ContextPtr _context;
  std::size_t _bytes;
  std::size_t _piece = 0;
  unsigned _mapped = 0;
  CUdeviceptr _address = 0;
};

// A stream of GPU 0 that can be kept busy.
class TestStream {
 public:
  TestStream();
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  // Waits: the device may still read what it was given.
  ~TestStream();
  [[nodiscard]] std::uint64_t handle() const noexcept { return reinterpret_cast<std::uint64_t>(_stream.get()); }
  // The write comes so many seconds after what the stream was given before.
  void write(TestMemory& memory, std::size_t offset, std::span<const std::byte> data, double delay);

 private:
  void keep_busy(double seconds);

  ContextPtr _context;
  CudaStream _stream;
  std::vector<std::unique_ptr<PinnedMemory>> _written;  // read by the device later
};

}  // namespace kvdirect
