// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/export.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/non_copyable.h"

namespace kvdirect {

namespace {

// The driver cuts smaller allocations out of such blocks, and exports the whole block: nothing else shall be in it.
constexpr std::size_t nonce_bytes = std::size_t{2} << 20;

struct Range {
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
};

Range range_of(CUdeviceptr address) {
  Range range;
  check_cuda(driver().cuMemGetAddressRange(&range.base, &range.bytes, address), "find the allocation of an address");
  return range;
}

// What physical memory a mapped address has; given back when this ends.
class AllocationHandle : NonCopyable {
 public:
  explicit AllocationHandle(CUdeviceptr address) {
    _status = driver().cuMemRetainAllocationHandle(&_handle, reinterpret_cast<void*>(address));
  }
  ~AllocationHandle() {
    if (_status == CUDA_SUCCESS) static_cast<void>(driver().cuMemRelease(_handle));
  }

  [[nodiscard]] CUresult status() const noexcept { return _status; }
  [[nodiscard]] CUmemGenericAllocationHandle get() const noexcept { return _handle; }

 private:
  CUmemGenericAllocationHandle _handle = 0;
  CUresult _status = CUDA_SUCCESS;
};

class Exports final : public GpuExports {
 public:
  Exports(const ContextPtr& context, const std::vector<Region>& regions, const Token& nonce)
      : _context(context), _nonce(context, nonce_bytes) {
    const Current current(*context);
    _access.device = uuid_of(context->device());
    _access.handoff.nonce = nonce;
    write_nonce(nonce);
    static_cast<void>(add_ipc(_nonce.get(), "the nonce"));
    for (std::size_t i = 0; i < regions.size(); ++i) {
      const bool ours = regions[i].memory == MemoryKind::cuda;
      _access.regions.push_back(ours ? place(regions[i], "region " + std::to_string(i)) : CudaAccess::Place{});
    }
  }

  [[nodiscard]] const CudaAccess& access() const noexcept override { return _access; }
  [[nodiscard]] std::vector<int> descriptors() const override {
    std::vector<int> numbers;
    for (const Fd& fd : _descriptors) numbers.push_back(fd.get());
    return numbers;
  }

 private:
  static Error refuse(const std::string& what, const std::string& why, CUresult status, const std::string& hint) {
    return lane_error(
        "cuda_ipc", what + " " + why,
        {.operation = "publish", .status = status == CUDA_SUCCESS ? "" : cuda_status(status), .hint = hint});
  }

  // And nothing behind it of what the memory held before: others map it whole.
  void write_nonce(const Token& nonce) {
    std::vector<std::byte> all(nonce_bytes);
    std::ranges::copy(nonce, all.begin());
    const CudaStream stream(_context);
    check_cuda(driver().cuMemcpyHtoDAsync(_nonce.get(), all.data(), all.size(), stream.get()), "write the nonce");
    check_cuda(driver().cuStreamSynchronize(stream.get()), "write the nonce");
  }

  CudaAccess::Place place(const Region& region, const std::string& what) {
    const auto address = reinterpret_cast<CUdeviceptr>(region.address);
    int legacy = 0;
    static_cast<void>(pointer_attribute(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, address, legacy));
    if (legacy == 0) return place_mapped(address, region.length, what);
    const Range range = range_of(address);
    if (address + region.length > range.base + range.bytes) {
      throw refuse(what, "ends outside its allocation", CUDA_SUCCESS, "register what one cudaMalloc returned");
    }
    return {add_ipc(range.base, what), 1, address - range.base};
  }

  // The index of the allocation.
  std::uint32_t add_ipc(CUdeviceptr base, const std::string& what) {
    const Range range = range_of(base);
    // By address: of allocations that share a page of the driver's, nobody promises that their handles differ.
    if (const auto known = _exported.find(range.base); known != _exported.end()) return known->second;
    CUipcMemHandle handle{};
    const CUresult result = driver().cuIpcGetMemHandle(&handle, range.base);
    if (result != CUDA_SUCCESS) {
      throw refuse(what, "cannot be exported", result, "allocate it with cudaMalloc, as torch does by default");
    }
    CudaAccess::Allocation allocation{.kind = CudaAccess::Handle::ipc, .bytes = range.bytes};
    static_assert(sizeof handle == sizeof allocation.handle);
    std::memcpy(allocation.handle.data(), &handle, sizeof handle);
    return _exported[range.base] = add(allocation, what);
  }

  // Memory that was mapped piece by piece: expandable segments of torch, the driver's virtual memory management.
  CudaAccess::Place place_mapped(CUdeviceptr address, std::uint64_t length, const std::string& what) {
    const auto first = static_cast<std::uint32_t>(_access.allocations.size());
    const std::uint64_t offset = address - range_of(address).base;
    std::uint32_t count = 0;
    for (CUdeviceptr at = address; at < address + length; ++count) {
      const Range range = range_of(at);
      static_cast<void>(add(export_mapped(range, what), what));
      at = range.base + range.bytes;
    }
    return {first, count, offset};
  }

  CudaAccess::Allocation export_mapped(const Range& range, const std::string& what) {
    const AllocationHandle handle(range.base);
    if (handle.status() != CUDA_SUCCESS) {
      throw refuse(what, "was allocated in a way that other processes cannot map", handle.status(),
                   "allocate it with cudaMalloc, not from a stream-ordered pool or as managed memory");
    }
    CUmemAllocationProp properties{};
    check_cuda(driver().cuMemGetAllocationPropertiesFromHandle(&properties, handle.get()), "ask how memory was made");
    CudaAccess::Allocation allocation{.kind = CudaAccess::Handle::descriptor, .bytes = range.bytes};
    const auto allowed = static_cast<unsigned>(properties.requestedHandleTypes);
    if ((allowed & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0) {
      int fd = -1;
      check_cuda(driver().cuMemExportToShareableHandle(&fd, handle.get(), CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                 "export memory as a file descriptor");
      _descriptors.emplace_back(fd);
    } else if ((allowed & CU_MEM_HANDLE_TYPE_FABRIC) != 0) {
      allocation.kind = CudaAccess::Handle::fabric;
      check_cuda(
          driver().cuMemExportToShareableHandle(allocation.handle.data(), handle.get(), CU_MEM_HANDLE_TYPE_FABRIC, 0),
          "export memory as a fabric handle");
    } else {
      throw refuse(what, "was made without a handle that other processes can map", CUDA_SUCCESS,
                   "make it with a file descriptor or fabric handle, or with cudaMalloc");
    }
    return allocation;
  }

  std::uint32_t add(const CudaAccess::Allocation& allocation, const std::string& what) {
    if (_access.allocations.size() == limits::cuda_allocations || _descriptors.size() > limits::shared_memories) {
      throw refuse(what, "lies in too many allocations", CUDA_SUCCESS,
                   "allocate it in one piece, without expandable segments");
    }
    _access.allocations.push_back(allocation);
    return static_cast<std::uint32_t>(_access.allocations.size() - 1);
  }

  ContextPtr _context;
  DeviceMemory _nonce;
  CudaAccess _access;
  std::map<CUdeviceptr, std::uint32_t> _exported;  // index of the allocation, by its first address
  std::vector<Fd> _descriptors;
};

}  // namespace

Token uuid_of(CUdevice device) {
  CUuuid uuid{};
  check_cuda(driver().cuDeviceGetUuid(&uuid, device), "ask for the GPU's UUID");
  Token token{};
  static_assert(sizeof uuid.bytes == sizeof token);
  std::memcpy(token.data(), uuid.bytes, token.size());
  return token;
}

std::unique_ptr<const GpuExports> export_regions(const ContextPtr& context, const std::vector<Region>& regions,
                                                 const Token& nonce) {
  return std::make_unique<const Exports>(context, regions, nonce);
}

}  // namespace kvdirect
