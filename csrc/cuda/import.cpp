// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/import.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/non_copyable.h"

namespace kvdirect {

namespace {

Error refuse(const std::string& why, const std::string& status = {}, const std::string& hint = {}) {
  return {Errc::lane, why, {.status = status, .hint = hint}};
}

void check_mapped(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  // What the driver answers to the process that made the memory.
  const char* const hint =
      result == CUDA_ERROR_INVALID_CONTEXT
          ? "engines of one process cannot map each other's GPU memory; put the owner into another process"
          : "both processes must be in one container or in containers that share IPC and PID namespaces; GPUs that "
            "differ must be able to reach each other (nvidia-smi topo -p2p r); CUDA_VISIBLE_DEVICES may hide "
            "one from the other";
  throw refuse(std::string("this process could not ") + what, cuda_status(result), hint);
}

// One allocation of another process, or several in a row, mapped for our GPU.
class Mapping : NonCopyable {
 public:
  virtual ~Mapping() = default;
  [[nodiscard]] virtual CUdeviceptr address() const noexcept = 0;
};

class IpcMapping final : public Mapping {
 public:
  explicit IpcMapping(const CudaAccess::Allocation& allocation) {
    CUipcMemHandle handle{};
    std::memcpy(&handle, allocation.handle.data(), sizeof handle);
    check_mapped(driver().cuIpcOpenMemHandle(&_address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
                 "open the owner's memory");
    std::size_t bytes = 0;
    const bool known = driver().cuMemGetAddressRange(nullptr, &bytes, _address) == CUDA_SUCCESS;
    if (!known || bytes >= allocation.bytes) return;
    static_cast<void>(driver().cuIpcCloseMemHandle(_address));
    throw refuse("the owner's memory is smaller than it says");
  }
  ~IpcMapping() override { static_cast<void>(driver().cuIpcCloseMemHandle(_address)); }
  [[nodiscard]] CUdeviceptr address() const noexcept override { return _address; }

 private:
  CUdeviceptr _address = 0;
};

// Allocations of the driver's virtual memory management, without a gap.
class JoinedMapping final : public Mapping {
 public:
  JoinedMapping(CUdevice device, std::span<const CudaAccess::Allocation> allocations,
                std::span<const Fd*> descriptors) {
    for (const auto& allocation : allocations) _bytes += allocation.bytes;
    check_mapped(driver().cuMemAddressReserve(&_address, _bytes, 0, 0, 0), "reserve addresses for the owner's memory");
    try {
      for (std::size_t i = 0; i < allocations.size(); ++i) map(allocations[i], descriptors[i]);
      CUmemAccessDesc ours{};
      ours.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}};
      ours.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;  // reading alone is not offered for every device
      check_mapped(driver().cuMemSetAccess(_address, _bytes, &ours, 1), "reach the owner's memory");
    } catch (...) {
      release();
      throw;
    }
  }
  ~JoinedMapping() override { release(); }
  [[nodiscard]] CUdeviceptr address() const noexcept override { return _address; }

 private:
  void map(const CudaAccess::Allocation& allocation, const Fd* descriptor) {
    CUmemGenericAllocationHandle handle = 0;
    const bool fabric = allocation.kind == CudaAccess::Handle::fabric;
    CUmemFabricHandle data{};
    std::memcpy(&data, allocation.handle.data(), sizeof data);
    void* shared =
        fabric ? static_cast<void*>(&data) : reinterpret_cast<void*>(static_cast<std::intptr_t>(descriptor->get()));
    const auto kind = fabric ? CU_MEM_HANDLE_TYPE_FABRIC : CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    check_mapped(driver().cuMemImportFromShareableHandle(&handle, shared, kind), "take the owner's memory over");
    const CUresult result = driver().cuMemMap(_address + _mapped, allocation.bytes, 0, handle, 0);
    // The mapping keeps the memory.
    static_cast<void>(driver().cuMemRelease(handle));
    check_mapped(result, "map the owner's memory");
    _mapped += allocation.bytes;
    _sizes.push_back(allocation.bytes);
  }

  void release() noexcept {
    CUdeviceptr at = _address;
    for (const std::size_t bytes : _sizes) {
      static_cast<void>(driver().cuMemUnmap(at, bytes));
      at += bytes;
    }
    static_cast<void>(driver().cuMemAddressFree(_address, _bytes));
  }

  CUdeviceptr _address = 0;
  std::size_t _bytes = 0;
  std::size_t _mapped = 0;
  std::vector<std::size_t> _sizes;
};

class View final : public GpuView {
 public:
  View(ContextPtr context, const CudaAccess& access, const std::vector<Fd>& descriptors,
       const std::vector<std::uint64_t>& region_bytes)
      : _context(std::move(context)) {
    if (access.regions.size() != region_bytes.size()) throw refuse("the owner's welcome and descriptor disagree");
    std::vector<const Fd*> of_allocation;
    auto next = descriptors.begin();
    for (const auto& allocation : access.allocations) {
      const bool descriptor = allocation.kind == CudaAccess::Handle::descriptor;
      of_allocation.push_back(descriptor ? &*next++ : nullptr);
    }
    const Current current(*_context);
    try {
      check_nonce(map(access, of_allocation, {.first = 0, .count = 1}), access.handoff.nonce);
      for (std::size_t i = 0; i < region_bytes.size(); ++i) {
        _regions.push_back(region(access, of_allocation, access.regions[i], region_bytes[i]));
      }
    } catch (...) {
      // Here, where the context is still current.
      _mappings.clear();
      throw;
    }
  }

  ~View() override {
    try {
      if (_context->here()) {
        const Current current(*_context);
        _mappings.clear();
      }
    } catch (const Error&) {
      // The driver is gone, and what it had mapped with it.
    }
    // In a fork it is the parent's.
    for (auto& [place, mapping] : _mappings) static_cast<void>(mapping.release());
  }

  [[nodiscard]] std::uint64_t region(std::uint32_t index) const noexcept override { return _regions[index]; }

 private:
  std::uint64_t region(const CudaAccess& access, std::span<const Fd*> descriptors, const CudaAccess::Place& place,
                       std::uint64_t bytes) {
    if (place.count == 0) return 0;
    std::uint64_t there = 0;
    for (std::uint32_t i = 0; i < place.count; ++i) there += access.allocations[place.first + i].bytes;
    if (place.offset > there || bytes > there - place.offset)
      throw refuse("the owner's region ends outside its memory");
    return map(access, descriptors, place) + place.offset;
  }

  CUdeviceptr map(const CudaAccess& access, std::span<const Fd*> descriptors, const CudaAccess::Place& place) {
    auto& mapping = _mappings[{place.first, place.count}];
    if (!mapping) {
      const auto allocations = std::span(access.allocations).subspan(place.first, place.count);
      if (allocations.front().kind == CudaAccess::Handle::ipc) {
        mapping = std::make_unique<IpcMapping>(allocations.front());
      } else {
        mapping = std::make_unique<JoinedMapping>(_context->device(), allocations,
                                                  descriptors.subspan(place.first, place.count));
      }
    }
    return mapping->address();
  }

  void check_nonce(CUdeviceptr address, const Token& nonce) const {
    // Not pinned: giving that back would wait for all that this process has given the GPU.
    Token seen{};
    const CudaStream stream(_context);
    check_mapped(driver().cuMemcpyDtoHAsync(seen.data(), address, seen.size(), stream.get()),
                 "read the owner's memory");
    check_mapped(driver().cuStreamSynchronize(stream.get()), "read the owner's memory");
    if (same_secret(seen, nonce)) return;
    throw refuse("what is read through the mapping is not the owner's memory", {},
                 "an IOMMU between the GPUs garbles what they read from each other; see their driver's notes");
  }

  ContextPtr _context;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::unique_ptr<Mapping>> _mappings;  // by first and count
  std::vector<std::uint64_t> _regions;
};

}  // namespace

std::shared_ptr<const GpuView> import_regions(const ContextPtr& context, const CudaAccess& access,
                                              std::vector<Fd> descriptors,
                                              const std::vector<std::uint64_t>& region_bytes) {
  return std::make_shared<const View>(context, access, descriptors, region_bytes);
}

}  // namespace kvdirect
