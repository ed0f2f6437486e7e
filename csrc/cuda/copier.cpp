// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/copier.h"

#include <algorithm>
#include <span>
#include <utility>

#include "cuda/copy_box.h"
#include "cuda/packed_tiles.h"

namespace kvdirect {

namespace {

constexpr std::size_t slots = 4;
constexpr std::size_t orders = 64;
constexpr std::size_t copies_per_batch = 32768;
// A box has up to 16 Ki rows.
constexpr std::size_t boxes_per_batch = 64;
constexpr std::size_t bases_per_batch = 16;

unsigned blocks_for(const PrimaryContext& context, unsigned sms) {
  const auto all = static_cast<unsigned>(context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
  return sms == 0 ? std::max(all / 4, 1U) : std::min(sms, all);
}

#if CUDA_VERSION >= 13000
bool can_batch() { return driver().cuMemcpyBatchAsync != nullptr; }
#else
bool can_batch() { return false; }
#endif

}  // namespace

Copier::Slot::Slot(const ContextPtr& context)
    : host(context, PackedTiles::most_bytes), device(context, PackedTiles::most_bytes) {}

Copier::Copier(ContextPtr context, GpuSettings settings)
    : _context(std::move(context)),
      _batched(settings.copy == GpuCopy::batch),
      _blocks(blocks_for(*_context, settings.sms)),
      _stream(_context),
      _uploads(_context) {
  if (_batched && !can_batch()) {
    throw Error(Errc::config, "the driver's batched copies need CUDA 13.0 or newer, in the build and in the driver",
                {.operation = "register", .hint = "take cuda_copy=\"kernel\""});
  }
  if (!_batched) {
    const bool bulk = settings.copy == GpuCopy::bulk;
    _kernel = std::make_unique<const CopyKernel>(_context, bulk);
    if (!bulk) _order = std::make_unique<CopyOrder>();
    warm_up();
  }
  for (std::size_t i = 0; i < slots; ++i) _slots.push_back(std::make_unique<Slot>(_context));
}

// The driver loads the code at its first launch, which may wait for all that the GPU has been given; and an image that
// does not run here is noticed now.
void Copier::warm_up() {
  const Current current(*_context);
  _kernel->launch(_stream.get(), 1, 0, 0, 0);
  if (_order) _kernel->launch(_stream.get(), 1, *_order);
  check_cuda(driver().cuStreamSynchronize(_stream.get()), "run the copy kernel");
}

std::shared_ptr<const DeviceEvent> Copier::copy(TileList& tiles, std::uint64_t most) {
  const std::lock_guard lock(_mutex);
  const bool little = _order && tiles.told() <= sizeof(CopyOrder::bytes);
  Slot* const slot = little ? nullptr : free_slot();
  if (little ? !may_order() : slot == nullptr) return nullptr;
  const Current current(*_context);
  try {
    if (_batched) {
      batch(tiles, most);
    } else if (little) {
      launch_order(tiles, most);
    } else {
      launch(*slot, tiles, most);
    }
    auto mark = std::make_shared<const RecordedEvent>(_context, _stream.get());
    if (little) {
      _orders.push_back(mark);
    } else {
      slot->until = mark;
    }
    return mark;
  } catch (...) {
    // Nobody has a mark of what the device was given of it, and whoever asked takes it for over: so it must be.
    for (const CudaStream* stream : {&_uploads, &_stream})
      static_cast<void>(driver().cuStreamSynchronize(stream->get()));
    throw;
  }
}

Copier::Slot* Copier::free_slot() {
  const auto slot =
      std::ranges::find_if(_slots, [](const auto& known) { return !known->until || known->until->passed(); });
  return slot == _slots.end() ? nullptr : slot->get();
}

// The driver lets whoever launches wait once a thousand launches do.
bool Copier::may_order() {
  if (_orders.size() < orders) return true;
  while (!_orders.empty() && _orders.front()->passed()) _orders.pop_front();
  return _orders.size() < orders;
}

void Copier::launch(Slot& slot, TileList& tiles, std::uint64_t most) {
  const PackedTiles told(tiles, most, {slot.host.get(), PackedTiles::most_bytes}, slot.device.get());
  check_cuda(driver().cuMemcpyHtoDAsync(slot.device.get(), slot.host.get(), told.bytes, _uploads.get()),
             "tell the GPU what to copy");
  const RecordedEvent uploaded(_context, _uploads.get());
  check_cuda(driver().cuStreamWaitEvent(_stream.get(), uploaded.get(), CU_EVENT_WAIT_DEFAULT),
             "put one copy behind another");
  _kernel->launch(_stream.get(), blocks(told.units), told.tiles, told.tile_count, told.units);
}

void Copier::launch_order(TileList& tiles, std::uint64_t most) {
  const PackedTiles told(tiles, most, std::as_writable_bytes(std::span(_order->bytes)), 0);
  _order->tiles = static_cast<unsigned>(told.tiles);
  _order->tile_count = told.tile_count;
  _order->units = told.units;
  _kernel->launch(_stream.get(), blocks(told.units), *_order);
}

unsigned Copier::blocks(unsigned units) const {
  return std::min((units + _kernel->warps() - 1) / _kernel->warps(), _blocks);
}

void Copier::batch(TileList& tiles, std::uint64_t most) {
#if CUDA_VERSION >= 13000
  std::vector<CUdeviceptr> targets;
  std::vector<CUdeviceptr> sources;
  std::vector<std::size_t> sizes;
  const auto add = [&](const CopyBox& box, const RunGroup::Base& base) {
    for (unsigned row = 0; row < box.rows * box.planes; ++row) {
      const std::uint64_t plane = row / box.rows;
      const std::uint64_t in_plane = row % box.rows;
      const std::uint64_t source = box.source + base.remote + in_plane * box.source_row + plane * box.source_plane;
      const std::uint64_t target = box.target + base.local + in_plane * box.target_row + plane * box.target_plane;
      // Boxes are made for warps; the driver wants long copies.
      if (!sizes.empty() && sources.back() + sizes.back() == source && targets.back() + sizes.back() == target) {
        sizes.back() += box.row_bytes;
        continue;
      }
      sources.push_back(source);
      targets.push_back(target);
      sizes.push_back(box.row_bytes);
    }
  };
  for (std::uint64_t bytes = 0; !tiles.empty() && bytes < most && sizes.size() < copies_per_batch;) {
    const auto tile = tiles.next({boxes_per_batch, bases_per_batch, most - bytes});
    if (!tile) break;
    for (const RunGroup::Base& base : tile->bases) {
      for (const CopyBox& box : tile->boxes) add(box, base);
    }
    bytes += tile->bytes();
  }
  CUmemcpyAttributes attributes{};
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  std::size_t first = 0;
  check_cuda(driver().cuMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), sizes.size(), &attributes,
                                         &first, 1, _stream.get()),
             "start a batch of copies");
#else
  static_cast<void>(tiles);
  static_cast<void>(most);
#endif
}

}  // namespace kvdirect
