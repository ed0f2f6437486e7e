// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// The copy kernel on a GPU against the same copies by the CPU, in one process, so that compute-sanitizer can watch it:
// bench/gpu_check.sh runs it so. Memory is exactly as large as what is copied, and what no box writes must stay as it
// was.
#include <cuda.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cuda/copy_box.h"
#include "cuda/driver.h"

namespace kvdirect {

namespace {

constexpr int no_gpu = 77;  // what CTest takes for a skipped test
constexpr unsigned warp = 32;
constexpr std::byte untouched{0xA5};

using Bytes = std::vector<std::byte>;
using Random = std::mt19937_64;

// Boxes at bases; sources and targets count from the beginning of the memories.
struct Tile {
  std::vector<CopyBox> boxes;
  std::vector<CopyBase> bases;
  unsigned width = 16;
};

struct Work {
  std::vector<Tile> tiles;
  std::uint64_t source_bytes = 0;
  std::uint64_t target_bytes = 0;
};

struct Grid {
  unsigned blocks;
  unsigned threads;
};

// ---- what is copied ------------------------------------------------------------------------------------------------

struct Shape {
  unsigned row_bytes;
  unsigned rows = 1;
  unsigned planes = 1;
  unsigned gap = 0;        // bytes between the source's rows
  bool transpose = false;  // planes and rows change places
};

// Places a shape at the ends of a footprint on either side, and moves the ends.
CopyBox place(const Shape& shape, unsigned width, std::uint64_t& source_end, std::uint64_t& target_end) {
  CopyBox box{};
  box.source = source_end;
  box.target = target_end;
  box.row_bytes = shape.row_bytes;
  box.rows = shape.rows;
  box.planes = shape.planes;
  box.width = width;
  const std::uint64_t step = shape.row_bytes + shape.gap;
  box.source_row = step;
  box.source_plane = step * shape.rows;
  box.target_row = shape.transpose ? std::uint64_t{shape.row_bytes} * shape.planes : shape.row_bytes;
  box.target_plane = shape.transpose ? shape.row_bytes : std::uint64_t{shape.row_bytes} * shape.rows;
  source_end += step * shape.rows * shape.planes - shape.gap;
  target_end += std::uint64_t{shape.row_bytes} * shape.rows * shape.planes;
  return box;
}

std::vector<std::uint64_t> shuffled(std::size_t count, Random& random) {
  std::vector<std::uint64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::shuffle(order, random);
  return order;
}

// One tile behind what is there already: the shapes, each aligned to no more than `width`, at `bases` places in random
// order; there is a hole of `width` behind each, which must stay as it is. `tile_width` below `width`: the places are
// aligned to no more than that.
void add_tile(Work& work, const std::vector<Shape>& shapes, unsigned width, unsigned tile_width, std::size_t bases,
              Random& random) {
  Tile tile;
  tile.width = tile_width;
  std::uint64_t source_end = 0;
  std::uint64_t target_end = 0;
  for (const Shape& shape : shapes) {
    tile.boxes.push_back(place(shape, width, source_end, target_end));
    source_end += width;
    target_end += width;
  }
  const std::uint64_t source_step = source_end + (tile_width < width ? tile_width : 0);
  const std::uint64_t target_step = target_end + (tile_width < width ? tile_width : 0);
  // Off the alignment of cuMemAlloc by the width, so that wider accesses than are allowed are misaligned.
  const auto begin = [&](std::uint64_t end) { return (end + 15) / 16 * 16 + tile_width % 16; };
  const std::uint64_t source = begin(work.source_bytes);
  const std::uint64_t target = begin(work.target_bytes);
  const auto from = shuffled(bases, random);
  const auto to = shuffled(bases, random);
  for (std::size_t i = 0; i < bases; ++i) {
    tile.bases.push_back({source + from[i] * source_step, target + to[i] * target_step});
  }
  // The last hole is left out: the memory ends with the last byte that is copied.
  work.source_bytes = source + bases * source_step - (source_step - source_end) - width;
  work.target_bytes = target + bases * target_step - (target_step - target_end) - width;
  work.tiles.push_back(std::move(tile));
}

// Around what a warp does at once, with and without its unrolled loop.
std::vector<Shape> rows_of(unsigned width) {
  std::vector<Shape> shapes;
  for (const unsigned items : {1U, 31U, 32U, 33U, 255U, 256U, 257U, 600U}) shapes.push_back({items * width});
  return shapes;
}

std::vector<Shape> boxes_of(unsigned width) {
  std::vector<Shape> shapes;
  for (const unsigned items : {1U, 3U, 8U, 33U}) {
    shapes.push_back({items * width, 5, 1, width});
    shapes.push_back({items * width, 7, 3, 2 * width});
    shapes.push_back({items * width, 16, 9, 0, true});
    shapes.push_back({items * width, 1, 4, width, true});
  }
  return shapes;
}

std::vector<Work> all_work(Random& random) {
  std::vector<Work> all;
  for (const unsigned width : {16U, 8U, 4U, 2U, 1U}) {
    Work& one = all.emplace_back();
    add_tile(one, rows_of(width), width, width, 1, random);
    Work& many = all.emplace_back();
    add_tile(many, rows_of(width), width, width, 23, random);
    add_tile(many, boxes_of(width), width, width, 11, random);
    add_tile(many, {{3 * width}}, width, width, 1, random);
    if (width == 16) continue;
    Work& narrowed = all.emplace_back();
    add_tile(narrowed, rows_of(16), 16, width, 9, random);
    add_tile(narrowed, boxes_of(16), 16, width, 5, random);
  }
  Work& large = all.emplace_back();
  add_tile(large, {{copy_box_bytes}}, 16, 16, 3000, random);
  add_tile(large, {{4096}}, 16, 16, 5000, random);
  all.emplace_back();  // nothing
  return all;
}

// ---- the two ways to copy ------------------------------------------------------------------------------------------

Bytes copied_by_cpu(const Work& work, const Bytes& source) {
  Bytes target(work.target_bytes, untouched);
  for (const Tile& tile : work.tiles) {
    for (const CopyBase& base : tile.bases) {
      for (const CopyBox& box : tile.boxes) {
        for (std::uint64_t plane = 0; plane < box.planes; ++plane) {
          for (std::uint64_t row = 0; row < box.rows; ++row) {
            const std::uint64_t from = base.source + box.source + row * box.source_row + plane * box.source_plane;
            const std::uint64_t to = base.target + box.target + row * box.target_row + plane * box.target_plane;
            std::memcpy(target.data() + to, source.data() + from, box.row_bytes);
          }
        }
      }
    }
  }
  return target;
}

// The first GPU, a stream of our own, and the kernel.
class Gpu {
 public:
  explicit Gpu(const std::string& image) {
    check_cuda(driver().cuDeviceGet(&_device, 0), "find the first GPU");
    check_cuda(driver().cuDevicePrimaryCtxRetain(&_context, _device), "use the first GPU");
    check_cuda(driver().cuCtxPushCurrent(_context), "use the first GPU");
    check_cuda(driver().cuStreamCreateWithPriority(&_stream, CU_STREAM_NON_BLOCKING, 0), "make a stream");
    check_cuda(driver().cuModuleLoadData(&_module, image.data()), "load the copy kernel");
    check_cuda(driver().cuModuleGetFunction(&_kernel, _module, copy_kernel_name), "find the copy kernel");
    check_cuda(driver().cuModuleGetFunction(&_order_kernel, _module, order_kernel_name), "find the copy kernel");
  }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;
  // Where the constructor throws the program ends.
  ~Gpu() {
    static_cast<void>(driver().cuModuleUnload(_module));
    static_cast<void>(driver().cuStreamDestroy(_stream));
    static_cast<void>(driver().cuDevicePrimaryCtxRelease(_device));
  }

  [[nodiscard]] CUstream stream() const noexcept { return _stream; }
  void wait(const char* what) const { check_cuda(driver().cuStreamSynchronize(_stream), what); }
  void launch(Grid grid, void** arguments) const { launch(_kernel, grid, arguments); }
  void launch(Grid grid, CopyOrder& order) const {
    void* arguments[] = {&order};  // NOLINT: as the driver wants them
    launch(_order_kernel, grid, arguments);
  }

 private:
  void launch(CUfunction kernel, Grid grid, void** arguments) const {
    check_cuda(driver().cuLaunchKernel(kernel, grid.blocks, 1, 1, grid.threads, 1, 1, 0, _stream, arguments, nullptr),
               "launch the copy kernel");
    wait("run the copy kernel");
  }

  CUdevice _device = 0;
  CUcontext _context = nullptr;
  CUstream _stream = nullptr;
  CUmodule _module = nullptr;
  CUfunction _kernel = nullptr;
  CUfunction _order_kernel = nullptr;
};

class DeviceBytes {
 public:
  DeviceBytes(const Gpu& gpu, const void* bytes, std::size_t count) : _gpu(gpu), _count(count) {
    if (count == 0) return;
    check_cuda(driver().cuMemAlloc(&_address, count), "allocate");
    check_cuda(driver().cuMemcpyHtoDAsync(_address, bytes, count, gpu.stream()), "copy to the GPU");
    gpu.wait("copy to the GPU");
  }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes() {
    if (_address != 0) static_cast<void>(driver().cuMemFree(_address));
  }

  [[nodiscard]] CUdeviceptr address() const noexcept { return _address; }
  [[nodiscard]] Bytes read() const {
    Bytes found(_count);
    if (_count == 0) return found;
    check_cuda(driver().cuMemcpyDtoHAsync(found.data(), _address, _count, _gpu.stream()), "copy from the GPU");
    _gpu.wait("copy from the GPU");
    return found;
  }

 private:
  const Gpu& _gpu;
  CUdeviceptr _address = 0;
  std::size_t _count;
};

template <typename Item>
DeviceBytes on_device(const Gpu& gpu, const std::vector<Item>& items) {
  return {gpu, items.data(), items.size() * sizeof(Item)};
}

// The same told in the kernel's parameters; nullopt: it is too much for them.
std::optional<Bytes> copied_by_order(const Work& work, const Bytes& source, const Gpu& gpu, Grid grid) {
  const DeviceBytes from = on_device(gpu, source);
  const DeviceBytes to = on_device(gpu, Bytes(work.target_bytes, untouched));
  CopyOrder order{};
  std::size_t used = 0;
  const auto put = [&](const auto& things) {
    const std::size_t bytes = things.size() * sizeof(things[0]);
    if (bytes <= sizeof order.bytes - std::min(used, sizeof order.bytes))
      std::memcpy(order.bytes + used, things.data(), bytes);
    return std::exchange(used, used + bytes);
  };
  std::vector<CopyTile> tiles;
  for (const Tile& tile : work.tiles) {
    std::vector<CopyBase> bases;
    for (const CopyBase& base : tile.bases) bases.push_back({base.source + from.address(), base.target + to.address()});
    tiles.push_back({reinterpret_cast<const CopyBox*>(put(tile.boxes)), reinterpret_cast<const CopyBase*>(put(bases)),
                     static_cast<unsigned>(tile.boxes.size()), static_cast<unsigned>(bases.size()), order.units,
                     tile.width});
    order.units += static_cast<unsigned>(tile.boxes.size() * bases.size());
  }
  order.tiles = static_cast<unsigned>(put(tiles));
  order.tile_count = static_cast<unsigned>(tiles.size());
  if (used > sizeof order.bytes) return std::nullopt;
  gpu.launch(grid, order);
  return to.read();
}

Bytes copied_by_gpu(const Work& work, const Bytes& source, const Gpu& gpu, Grid grid) {
  const DeviceBytes from = on_device(gpu, source);
  const DeviceBytes to = on_device(gpu, Bytes(work.target_bytes, untouched));
  std::vector<CopyBox> boxes;
  std::vector<CopyBase> bases;
  for (const Tile& tile : work.tiles) {
    boxes.insert(boxes.end(), tile.boxes.begin(), tile.boxes.end());
    for (const CopyBase& base : tile.bases) bases.push_back({base.source + from.address(), base.target + to.address()});
  }
  const DeviceBytes device_boxes = on_device(gpu, boxes);
  const DeviceBytes device_bases = on_device(gpu, bases);
  std::vector<CopyTile> tiles;
  unsigned units = 0;
  std::size_t box = 0;
  std::size_t base = 0;
  for (const Tile& tile : work.tiles) {
    tiles.push_back({reinterpret_cast<const CopyBox*>(device_boxes.address() + box * sizeof(CopyBox)),     // NOLINT
                     reinterpret_cast<const CopyBase*>(device_bases.address() + base * sizeof(CopyBase)),  // NOLINT
                     static_cast<unsigned>(tile.boxes.size()), static_cast<unsigned>(tile.bases.size()), units,
                     tile.width});
    units += static_cast<unsigned>(tile.boxes.size() * tile.bases.size());
    box += tile.boxes.size();
    base += tile.bases.size();
  }
  const DeviceBytes device_tiles = on_device(gpu, tiles);
  CUdeviceptr told = device_tiles.address();
  auto count = static_cast<unsigned>(tiles.size());
  void* arguments[] = {&told, &count, &units};  // NOLINT: as the driver wants them
  gpu.launch(grid, arguments);
  return to.read();
}

// ---- the program ---------------------------------------------------------------------------------------------------

Bytes random_bytes(std::uint64_t count, Random& random) {
  Bytes bytes(count);
  std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random() >> 56); });
  return bytes;
}

std::size_t different(const Bytes& one, const Bytes& other) {
  return static_cast<std::size_t>(std::inner_product(one.begin(), one.end(), other.begin(), std::ptrdiff_t{0},
                                                     std::plus<>(),
                                                     [](std::byte a, std::byte b) { return a == b ? 0 : 1; }));
}

std::string contents(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(Errc::config, std::string("cannot read ") + path, {.operation = "load the copy kernel"});
  return {std::istreambuf_iterator<char>(file), {}};
}

int check_all(const char* image_path) {
  const Gpu gpu(contents(image_path));
  Random random(20261123);
  int launches = 0;
  int wrong = 0;
  int orders = 0;
  for (const Work& work : all_work(random)) {
    const Bytes source = random_bytes(work.source_bytes, random);
    const Bytes expected = copied_by_cpu(work, source);
    for (const Grid grid : {Grid{1, warp}, Grid{3, 4 * warp}, Grid{40, copy_threads_per_block}}) {
      const auto check = [&](const Bytes& found, const char* how) {
        const std::size_t bytes = different(expected, found);
        ++launches;
        if (bytes == 0) return;
        ++wrong;
        std::printf("wrong: %zu of %zu bytes, %zu tiles, %u blocks of %u threads, told in %s\n", bytes, expected.size(),
                    work.tiles.size(), grid.blocks, grid.threads, how);
      };
      check(copied_by_gpu(work, source, gpu, grid), "memory");
      const auto found = copied_by_order(work, source, gpu, grid);
      if (!found) continue;
      check(*found, "parameters");
      ++orders;
    }
  }
  std::printf("copy_kernel_check: %d of %d launches right, %d told in parameters\n", launches - wrong, launches,
              orders);
  return wrong == 0 && orders > 0 ? 0 : 1;
}

}  // namespace

}  // namespace kvdirect

// copy_kernel_check FATBIN [DRIVER]: the kernel as nvcc -fatbin made it, and another libcuda than the system's.
int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "copy_kernel_check: expected FATBIN [DRIVER]\n");
    return 2;
  }
  if (argc == 3) kvdirect::use_cuda_driver(argv[2]);
  try {
    static_cast<void>(kvdirect::driver());
  } catch (const kvdirect::Error& error) {
    std::printf("copy_kernel_check: skipped: %s\n", error.what());
    return kvdirect::no_gpu;
  }
  try {
    return kvdirect::check_all(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "copy_kernel_check: %s\n", error.what());
    return 1;
  }
}
