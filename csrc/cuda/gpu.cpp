// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/gpu.h"

#include <string>
#include <utility>

#include "base/error.h"
#include "cuda/copier.h"
#include "cuda/export.h"
#include "cuda/handles.h"
#include "cuda/import.h"
#include "cuda/link.h"

namespace kvdirect {

namespace {

Error refuse(const std::string& why, const std::string& status = {}, const std::string& hint = {}) {
  return {Errc::config, why, {.operation = "register", .status = status, .hint = hint}};
}

// The number of the GPU that an address is on, as this process counts them, asked in the thread's context.
int ordinal_in_context(std::uint64_t address, CUresult known, unsigned kind) {
  if (known != CUDA_SUCCESS) throw refuse("the buffer is no memory that CUDA knows", cuda_status(known));
  unsigned managed = 0;
  static_cast<void>(pointer_attribute(CU_POINTER_ATTRIBUTE_IS_MANAGED, address, managed));
  if (kind != CU_MEMORYTYPE_DEVICE || managed != 0) {
    throw refuse("the buffer is not plain memory of a GPU", {}, "allocate it with cudaMalloc, as torch does");
  }
  int ordinal = 0;
  check_cuda(pointer_attribute(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address, ordinal), "ask where the buffer is");
  return ordinal;
}

int ordinal_of(std::uint64_t address) {
  unsigned kind = 0;
  const auto ask = [&] { return pointer_attribute(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address, kind); };
  const CUresult known = ask();
  if (known != CUDA_ERROR_INVALID_CONTEXT) return ordinal_in_context(address, known, kind);
  // cuda.h allows that answer to a thread without a context; any will do.
  const PrimaryContext first(0);
  const Current current(first);
  const CUresult now_known = ask();
  return ordinal_in_context(address, now_known, kind);
}

class CudaGpu final : public Gpu {
 public:
  CudaGpu(int ordinal, GpuSettings settings)
      : _ordinal(ordinal),
        _context(std::make_shared<const PrimaryContext>(ordinal)),
        _ordered(_context->attribute(CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING) >=
                 CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER),
        _flushes((_context->attribute(CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS) &
                  CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST) != 0),
        _copier(_context, settings),
        _fences(_context) {}

  void check_holds(std::uint64_t address, std::uint64_t length) const override {
    for (const std::uint64_t at : {address, address + length - 1}) {
      const int ordinal = ordinal_of(at);
      if (ordinal == _ordinal) continue;
      throw refuse("the buffer is on GPU " + std::to_string(ordinal) + ", and the engine's others are on GPU " +
                       std::to_string(_ordinal),
                   {}, "make one engine per GPU");
    }
  }

  std::shared_ptr<const DeviceEvent> record_event(std::uint64_t stream) override {
    return std::make_shared<const RecordedEvent>(_context, reinterpret_cast<CUstream>(stream));
  }

  std::uint64_t fence_stream() const noexcept override { return reinterpret_cast<std::uint64_t>(_fences.get()); }

  void enter() const override {
    check_cuda(driver().cuCtxPushCurrent(_context->get()), "make the GPU's context current");
  }

  std::string link_to(const Token& uuid) const override { return link_between(*_context, uuid); }

  std::string why_no_flush() const override {
    if (_ordered || _flushes) return {};
    return "the driver says that this GPU neither orders what network cards write to it, nor can be made to";
  }

  void flush() const override {
    if (_ordered) return;
    const Current current(*_context);
    check_cuda(driver().cuFlushGPUDirectRDMAWrites(CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX,
                                                   CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER),
               "order what other devices wrote");
  }

  std::unique_ptr<const GpuExports> share(const std::vector<Region>& regions, const Token& nonce) override {
    return export_regions(_context, regions, nonce);
  }

  std::shared_ptr<const GpuView> import(const CudaAccess& access, std::vector<Fd> descriptors,
                                        const std::vector<std::uint64_t>& region_bytes) override {
    return import_regions(_context, access, std::move(descriptors), region_bytes);
  }

  std::shared_ptr<const DeviceEvent> copy(TileList& tiles, std::uint64_t most) override {
    return _copier.copy(tiles, most);
  }

 private:
  const int _ordinal;
  ContextPtr _context;
  const bool _ordered;  // by itself: what other devices write is seen by what it is given afterwards
  const bool _flushes;  // when it is told to
  Copier _copier;
  CudaStream _fences;
};

}  // namespace

bool Gpu::built() noexcept { return true; }

std::shared_ptr<Gpu> Gpu::holding(std::uint64_t address, std::uint64_t length, GpuSettings settings) {
  try {
    static_cast<void>(driver());
  } catch (const Error& error) {
    throw refuse("the buffer is said to be a GPU's memory: " + std::string(error.what()), {}, error.context().hint);
  }
  auto gpu = std::make_shared<CudaGpu>(ordinal_of(address), settings);
  gpu->check_holds(address, length);
  return gpu;
}

}  // namespace kvdirect
