// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/copy_box.h"
#include "cuda/gpu.h"
#include "cuda/handles.h"
#include "cuda/tile_list.h"

namespace kvdirect {

// Copies on a GPU: what is to be copied is written to pinned memory, follows by a copy to the device, and our kernel
// reads it there; or it is little, and goes along in the kernel's parameters, unless that is the bulk kernel. Or the
// driver's batched copies do it. Thread-safe.
class Copier {
 public:
  Copier(ContextPtr context, GpuSettings settings);

  // Null: no room, other copies are under way.
  [[nodiscard]] std::shared_ptr<const DeviceEvent> copy(TileList& tiles, std::uint64_t most);

 private:
  // What one launch is given, from when it is written until the device has read it.
  struct Slot {
    explicit Slot(const ContextPtr& context);
    PinnedMemory host;
    DeviceMemory device;
    std::shared_ptr<const DeviceEvent> until;  // null: free
  };
  void warm_up();
  [[nodiscard]] Slot* free_slot();
  [[nodiscard]] bool may_order();
  void launch(Slot& slot, TileList& tiles, std::uint64_t most);
  // Of what fits in the kernel's parameters.
  void launch_order(TileList& tiles, std::uint64_t most);
  void batch(TileList& tiles, std::uint64_t most);
  // Of a launch for so many units.
  [[nodiscard]] unsigned blocks(unsigned units) const;

  ContextPtr _context;
  bool _batched;
  unsigned _blocks = 0;
  CudaStream _stream;
  CudaStream _uploads;  // beside the copies: what a launch is told comes while the one before it runs
  std::unique_ptr<const CopyKernel> _kernel;
  // Of one launch after the other: each copies it. Null where no launch is told in its parameters.
  std::unique_ptr<CopyOrder> _order;
  std::mutex _mutex;
  std::vector<std::unique_ptr<Slot>> _slots;
  std::deque<std::shared_ptr<const DeviceEvent>> _orders;  // the latest launches without a slot
};

}  // namespace kvdirect
