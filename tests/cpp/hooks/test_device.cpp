// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "test_device.h"

#include <cstring>
#include <thread>

#include "base/error.h"

namespace kvdirect {

namespace {

void check_inside(const TestMemory& memory, std::size_t offset, std::size_t bytes) {
  if (offset <= memory.bytes() && bytes <= memory.bytes() - offset) return;
  throw Error(Errc::config, "the test goes beyond its memory");
}

}  // namespace

TestMemory::TestMemory(std::size_t bytes, unsigned pieces, bool exportable)
    : _context(std::make_shared<const PrimaryContext>(0)), _bytes(bytes) {
  const Current current(*_context);
  if (pieces > 0) {
    map(pieces, exportable);
  } else {
    check_cuda(driver().cuMemAlloc(&_address, bytes), "allocate memory on the GPU");
  }
}

void TestMemory::map(unsigned pieces, bool exportable) {
  CUmemAllocationProp kind{};
  kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  kind.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  kind.location.id = _context->device();
  if (exportable) kind.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  std::size_t unit = 0;
  check_cuda(driver().cuMemGetAllocationGranularity(&unit, &kind, CU_MEM_ALLOC_GRANULARITY_MINIMUM), "ask for sizes");
  _piece = (_bytes / pieces + unit - 1) / unit * unit;
  check_cuda(driver().cuMemAddressReserve(&_address, _piece * pieces, 0, 0, 0), "reserve addresses");
  for (; _mapped < pieces; ++_mapped) {
    CUmemGenericAllocationHandle handle = 0;
    check_cuda(driver().cuMemCreate(&handle, _piece, &kind, 0), "make memory");
    const CUresult result = driver().cuMemMap(_address + _mapped * _piece, _piece, 0, handle, 0);
    static_cast<void>(driver().cuMemRelease(handle));
    check_cuda(result, "map memory");
  }
  CUmemAccessDesc access{kind.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  check_cuda(driver().cuMemSetAccess(_address, _piece * pieces, &access, 1), "allow access to memory");
}

TestMemory::~TestMemory() {
  CUcontext ours = nullptr;
  if (!_context->here()) return;
  if (driver().cuCtxPushCurrent(_context->get()) != CUDA_SUCCESS) return;
  if (_mapped == 0) {
    static_cast<void>(driver().cuMemFree(_address));
  } else {
    for (unsigned i = 0; i < _mapped; ++i) static_cast<void>(driver().cuMemUnmap(_address + i * _piece, _piece));
    static_cast<void>(driver().cuMemAddressFree(_address, _piece * _mapped));
  }
  static_cast<void>(driver().cuCtxPopCurrent(&ours));
}

void TestMemory::write(std::size_t offset, std::span<const std::byte> data) {
  check_inside(*this, offset, data.size());
  const Current current(*_context);
  const CudaStream stream(_context);
  check_cuda(driver().cuMemcpyHtoDAsync(_address + offset, data.data(), data.size(), stream.get()), "write memory");
  check_cuda(driver().cuStreamSynchronize(stream.get()), "write memory");
}

std::vector<std::byte> TestMemory::read(std::size_t offset, std::size_t bytes) const {
  check_inside(*this, offset, bytes);
  std::vector<std::byte> data(bytes);
  const Current current(*_context);
  const CudaStream stream(_context);
  check_cuda(driver().cuMemcpyDtoHAsync(data.data(), _address + offset, bytes, stream.get()), "read memory");
  check_cuda(driver().cuStreamSynchronize(stream.get()), "read memory");
  return data;
}

TestStream::TestStream() : _context(std::make_shared<const PrimaryContext>(0)), _stream(_context) {}

TestStream::~TestStream() {
  if (!_context->here()) return;
  try {
    const Current current(*_context);
    static_cast<void>(driver().cuStreamSynchronize(_stream.get()));
  } catch (const Error&) {
    // The driver is gone, and reads nothing any more.
  }
}

void TestStream::keep_busy(double seconds) {
  const Current current(*_context);
  const auto wait = [](void* time) {
    const std::unique_ptr<double> mine(static_cast<double*>(time));
    std::this_thread::sleep_for(std::chrono::duration<double>(*mine));
  };
  check_cuda(driver().cuLaunchHostFunc(_stream.get(), wait, new double(seconds)), "keep the stream busy");
}

void TestStream::write(TestMemory& memory, std::size_t offset, std::span<const std::byte> data, double delay) {
  check_inside(memory, offset, data.size());
  const Current current(*_context);
  // First: allocating pinned memory may wait for what the GPU has to do.
  _written.push_back(std::make_unique<PinnedMemory>(_context, data.size()));
  std::memcpy(_written.back()->get(), data.data(), data.size());
  if (delay > 0) keep_busy(delay);
  check_cuda(driver().cuMemcpyHtoDAsync(memory.address() + offset, _written.back()->get(), data.size(), _stream.get()),
             "write memory");
}

}  // namespace kvdirect
