// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/device_event.h"
#include "base/fd.h"
#include "base/non_copyable.h"
#include "cuda/tile_list.h"
#include "memory/regions.h"
#include "wire/messages.h"

// What the rest of the core sees of CUDA. Builds without CUDA have it too: there Gpu::holding() refuses.
namespace kvdirect {

// What copies: our kernel, its variant that moves bytes in bulk (sm_90 and newer), or the driver's batched copies.
enum class GpuCopy : std::uint8_t { kernel, bulk, batch };
inline constexpr std::array<std::string_view, 3> gpu_copy_names{"kernel", "bulk", "batch"};

struct GpuSettings {
  unsigned sms = 0;  // multiprocessors that copies may keep busy; 0: a quarter of them
  GpuCopy copy = GpuCopy::kernel;
};

// An owner's memory on its GPU, made ready for readers on this host; kept for as long as they may come.
class GpuExports : NonCopyable {
 public:
  virtual ~GpuExports() = default;

  [[nodiscard]] virtual const CudaAccess& access() const noexcept = 0;  // all but the handoff's path and secret
  [[nodiscard]] virtual std::vector<int> descriptors() const = 0;
};

// Another process's memory on a GPU, as it is mapped here.
class GpuView : NonCopyable {
 public:
  virtual ~GpuView() = default;

  // Device address of a region; 0 if it is not on a GPU.
  [[nodiscard]] virtual std::uint64_t region(std::uint32_t index) const noexcept = 0;
};

// One GPU, as one engine uses it: with a stream of its own, of the highest priority. Thread-safe. No call waits for the
// device, but for share(), import(), and copy() where it fails.
class Gpu : NonCopyable {
 public:
  virtual ~Gpu() = default;

  // Whether this build has the CUDA parts.
  [[nodiscard]] static bool built() noexcept;
  // The one that holds this memory. Throws Error(config): it is not a GPU's, or this build or host has no CUDA.
  [[nodiscard]] static std::shared_ptr<Gpu> holding(std::uint64_t address, std::uint64_t length, GpuSettings settings);

  // Throws Error(config) unless this memory is on this GPU.
  virtual void check_holds(std::uint64_t address, std::uint64_t length) const = 0;
  // What `stream`, a CUstream of this GPU, has been given so far.
  [[nodiscard]] virtual std::shared_ptr<const DeviceEvent> record_event(std::uint64_t stream) = 0;
  // A CUstream that nobody else uses and that is given nothing here, as long as this lives.
  [[nodiscard]] virtual std::uint64_t fence_stream() const noexcept = 0;
  // Makes the GPU's context the calling thread's, for good.
  virtual void enter() const = 0;
  // How it reaches the GPU with this UUID, for people.
  [[nodiscard]] virtual std::string link_to(const Token& uuid) const = 0;
  // Why flush() cannot do what it says; empty where it can.
  [[nodiscard]] virtual std::string why_no_flush() const = 0;
  // What other devices have written into the GPU's memory is seen by all that it is given afterwards.
  virtual void flush() const = 0;
  // Throws Error(lane) naming a region that cannot be exported, and the remedy.
  [[nodiscard]] virtual std::unique_ptr<const GpuExports> share(const std::vector<Region>& regions,
                                                                const Token& nonce) = 0;
  // Maps what an owner exports, and reads its nonce through the mapping. Throws Error(lane).
  [[nodiscard]] virtual std::shared_ptr<const GpuView> import(const CudaAccess& access, std::vector<Fd> descriptors,
                                                              const std::vector<std::uint64_t>& region_bytes) = 0;
  // Starts copying the next of `tiles`, about `most` bytes; the mark says when that is done. Null: other copies leave
  // no room, ask again soon. Throws Error(transport).
  [[nodiscard]] virtual std::shared_ptr<const DeviceEvent> copy(TileList& tiles, std::uint64_t most) = 0;
};

}  // namespace kvdirect
