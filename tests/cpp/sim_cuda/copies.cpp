// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "context.h"
#include "extents.h"
#include "kernel.h"
#include "mappings.h"
#include "stream.h"

// Copies that the driver makes itself.
namespace kvdirect::sim {

namespace {

struct Copy {
  CUdeviceptr target;
  CUdeviceptr source;
  std::size_t size;
};

// As the driver does at the call. Throws Refusal.
void check_range(std::uint64_t address, std::size_t size, bool on_host, const char* what) {
  const std::shared_lock lock(mappings().mutex);
  const auto found = need_mapping(address);
  if (found->second.on_host() != on_host) refuse(CUDA_ERROR_INVALID_VALUE, std::string(what) + " is of the other kind");
  const std::size_t left = found->first + found->second.size - address;
  if (size <= left) return;
  const auto last = find_mapping(address + size - 1);
  if (last == mappings().table.end() || last->second.addresses.start != found->second.addresses.start) {
    refuse(CUDA_ERROR_INVALID_VALUE, std::string(what) + " ends past its allocation");
  }
}

// Host memory of cuMemHostAlloc is read and written when the copy's turn comes; other memory, before the call returns.
bool is_pinned(const void* address) {
  const std::shared_lock lock(mappings().mutex);
  const auto found = find_mapping(reinterpret_cast<std::uintptr_t>(address));
  if (found == mappings().table.end()) return false;
  if (!found->second.on_host()) refuse(CUDA_ERROR_INVALID_VALUE, "the host's side of the copy is device memory");
  return true;
}

void copy(const Context& context, const Copy& one, const char* who) {
  const std::byte* source = reach(context, one.source, one.size, Access::read, who);
  std::byte* target = reach(context, one.target, one.size, Access::write, who);
  std::memcpy(target, source, one.size);
}

void copy_to_device(const Context& context, CUdeviceptr target, std::span<const std::byte> source) {
  const std::shared_lock lock(mappings().mutex);
  std::memcpy(reach(context, target, source.size(), Access::write, "cuMemcpyHtoDAsync"), source.data(), source.size());
}

std::atomic<std::size_t> uploads = 0;

// Of copies from pinned memory, which are slow beside all that stays on the GPU.
std::chrono::microseconds upload_delay() {
  static const char* const wanted = std::getenv("KVDIRECT_SIM_CUDA_UPLOAD_DELAY_US");
  return std::chrono::microseconds(wanted ? std::strtoul(wanted, nullptr, 10) : 0);
}

void copy_from_device(const Context& context, std::span<std::byte> target, CUdeviceptr source) {
  const std::shared_lock lock(mappings().mutex);
  std::memcpy(target.data(), reach(context, source, target.size(), Access::read, "cuMemcpyDtoHAsync"), target.size());
}

#if CUDA_VERSION >= 13000

void check_attributes(std::span<const CUmemcpyAttributes> attributes, const size_t* first, std::size_t count) {
  if (attributes.empty() || attributes.size() > count) {
    refuse(CUDA_ERROR_INVALID_VALUE, "there must be attributes, and no more than copies");
  }
  for (std::size_t i = 0; i < attributes.size(); ++i) {
    const bool ordered = i == 0 ? first[i] == 0 : first[i] > first[i - 1];
    if (!ordered || first[i] >= count) refuse(CUDA_ERROR_INVALID_VALUE, "the attributes' indices are out of order");
    const auto order = attributes[i].srcAccessOrder;
    if (order != CU_MEMCPY_SRC_ACCESS_ORDER_STREAM && order != CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL &&
        order != CU_MEMCPY_SRC_ACCESS_ORDER_ANY) {
      refuse(CUDA_ERROR_INVALID_VALUE, "a copy has no access order");
    }
    if ((attributes[i].flags & ~static_cast<unsigned>(CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE)) != 0) {
      refuse(CUDA_ERROR_INVALID_VALUE, "unknown flags of a copy");
    }
  }
}

// What follows the rule of one launch too: in any order.
void check_copies(std::span<const Copy> copies) {
  std::vector<Extent> sources;
  std::vector<Extent> targets;
  for (const Copy& one : copies) {
    if (one.size == 0) refuse(CUDA_ERROR_INVALID_VALUE, "a copy of 0 bytes");
    check_range(one.source, one.size, false, "a source");
    check_range(one.target, one.size, false, "a target");
    sources.push_back({one.source, one.size});
    targets.push_back({one.target, one.size});
  }
  check_independent(std::move(sources), std::move(targets), "cuMemcpyBatchAsync");
}

#endif

}  // namespace

std::size_t count_uploads() { return uploads; }

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr target, const void* source, size_t size, CUstream stream_handle) {
  return call_in_context("cuMemcpyHtoDAsync", [&](Context& context) {
    const auto stream = find_stream(context, stream_handle);
    if (size == 0) return;
    if (!source) refuse(CUDA_ERROR_INVALID_VALUE, "no source");
    check_range(target, size, false, "the target");
    const std::span from(static_cast<const std::byte*>(source), size);
    if (is_pinned(source)) {
      check_range(reinterpret_cast<std::uintptr_t>(source), size, true, "the source");
      const Copy one{target, reinterpret_cast<std::uintptr_t>(source), size};
      ++uploads;
      stream->add([&context, one] {
        std::this_thread::sleep_for(upload_delay());
        const std::shared_lock lock(mappings().mutex);
        copy(context, one, "cuMemcpyHtoDAsync");
      });
    } else {
      stream->add(
          [&context, target, held = std::vector(from.begin(), from.end())] { copy_to_device(context, target, held); });
    }
  });
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void* target, CUdeviceptr source, size_t size, CUstream stream_handle) {
  return call_in_context("cuMemcpyDtoHAsync", [&](Context& context) {
    const auto stream = find_stream(context, stream_handle);
    if (size == 0) return;
    if (!target) refuse(CUDA_ERROR_INVALID_VALUE, "no target");
    check_range(source, size, false, "the source");
    if (is_pinned(target)) {
      check_range(reinterpret_cast<std::uintptr_t>(target), size, true, "the target");
      const Copy one{reinterpret_cast<std::uintptr_t>(target), source, size};
      stream->add([&context, one] {
        const std::shared_lock lock(mappings().mutex);
        copy(context, one, "cuMemcpyDtoHAsync");
      });
    } else {
      const std::span to(static_cast<std::byte*>(target), size);
      stream->add([&context, to, source] { copy_from_device(context, to, source); });
      stream->wait();
      context.check();
    }
  });
}

#if CUDA_VERSION >= 13000

CUresult CUDAAPI cuMemcpyBatchAsync(CUdeviceptr* targets, CUdeviceptr* sources, size_t* sizes, size_t count,
                                    CUmemcpyAttributes* attributes, size_t* first, size_t attribute_count,
                                    CUstream stream_handle) {
  return call_in_context("cuMemcpyBatchAsync", [&](Context& context) {
    if (is_stream_zero(stream_handle)) refuse(CUDA_ERROR_INVALID_VALUE, "stream 0 takes no batches");
    const auto stream = find_stream(context, stream_handle);
    if (!targets || !sources || !sizes || !attributes || !first || count == 0) {
      refuse(CUDA_ERROR_INVALID_VALUE, "a list is missing, or empty");
    }
    check_attributes({attributes, attribute_count}, first, count);
    std::vector<Copy> copies(count);
    for (std::size_t i = 0; i < count; ++i) copies[i] = {targets[i], sources[i], sizes[i]};
    check_copies(copies);
    stream->add([&context, copies = std::move(copies)] {
      const std::shared_lock lock(mappings().mutex);
      for (const Copy& one : copies) copy(context, one, "cuMemcpyBatchAsync");
    });
  });
}

#endif

}  // extern "C"
