// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// The copy kernels on a GPU against the same copies by the CPU, in one process, so that compute-sanitizer can watch
// them: bench/gpu_check.sh runs it so. Memory is exactly as large as what is copied, and what no box writes must stay
// as it was.
#include <cuda.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "copy_work.h"
#include "cuda/bulk_slots.h"
#include "cuda/copy_box.h"
#include "cuda/driver.h"

namespace kvdirect {

namespace {

constexpr int no_gpu = 77;  // what CTest takes for a skipped test
constexpr unsigned warp = 32;
struct Grid {
  unsigned blocks;
  unsigned threads;
};

// `order`: told in its parameters.
enum class Kernel { plain, bulk, order };

// The first GPU, a stream of our own, and the kernels.
class Gpu {
 public:
  explicit Gpu(const std::string& image) {
    check_cuda(driver().cuDeviceGet(&_device, 0), "find the first GPU");
    check_cuda(driver().cuDevicePrimaryCtxRetain(&_context, _device), "use the first GPU");
    check_cuda(driver().cuCtxPushCurrent(_context), "use the first GPU");
    check_cuda(driver().cuStreamCreateWithPriority(&_stream, CU_STREAM_NON_BLOCKING, 0), "make a stream");
    check_cuda(driver().cuModuleLoadData(&_module, image.data()), "load the copy kernel");
    check_cuda(driver().cuModuleGetFunction(&_plain, _module, copy_kernel_name), "find the copy kernel");
    check_cuda(driver().cuModuleGetFunction(&_order, _module, order_kernel_name), "find the copy kernel");
    if (attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) < bulk_capability) return;
    check_cuda(driver().cuModuleGetFunction(&_bulk, _module, bulk_kernel_name), "find the bulk kernel");
    _bulk_warps =
        std::min(bulk_warps, static_cast<unsigned>(attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)) /
                                 bulk_warp_bytes);
    check_cuda(driver().cuFuncSetAttribute(_bulk, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                           static_cast<int>(_bulk_warps * bulk_warp_bytes)),
               "take shared memory");
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
  // The most threads in a block; 0: this GPU has no such kernel.
  [[nodiscard]] unsigned threads(Kernel kernel) const noexcept {
    return kernel == Kernel::bulk ? _bulk_warps * warp : copy_threads_per_block;
  }
  void launch(Kernel kernel, Grid grid, void** arguments) const {
    const bool bulk = kernel == Kernel::bulk;
    const unsigned shared_bytes = bulk ? grid.threads / warp * bulk_warp_bytes : 0;
    const CUfunction function = bulk ? _bulk : kernel == Kernel::order ? _order : _plain;
    check_cuda(driver().cuLaunchKernel(function, grid.blocks, 1, 1, grid.threads, 1, 1, shared_bytes, _stream,
                                       arguments, nullptr),
               "launch the copy kernel");
    wait("run the copy kernel");
  }

 private:
  [[nodiscard]] int attribute(CUdevice_attribute attribute) const {
    int value = 0;
    check_cuda(driver().cuDeviceGetAttribute(&value, attribute, _device), "ask about the GPU");
    return value;
  }

  CUdevice _device = 0;
  CUcontext _context = nullptr;
  CUstream _stream = nullptr;
  CUmodule _module = nullptr;
  CUfunction _plain = nullptr;
  CUfunction _order = nullptr;
  CUfunction _bulk = nullptr;
  unsigned _bulk_warps = 0;
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
  void* arguments[] = {&order};  // NOLINT: as the driver wants them
  gpu.launch(Kernel::order, grid, arguments);
  return to.read();
}

Bytes copied_by_gpu(const Work& work, const Bytes& source, const Gpu& gpu, Kernel kernel, Grid grid) {
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
  gpu.launch(kernel, grid, arguments);
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

struct Launches {
  int right = 0;
  int wrong = 0;
};

// nullopt: it is too much for the kernel's parameters.
std::optional<Bytes> copied(const Work& work, const Bytes& source, const Gpu& gpu, Kernel kernel, Grid grid) {
  if (kernel == Kernel::order) return copied_by_order(work, source, gpu, grid);
  return copied_by_gpu(work, source, gpu, kernel, grid);
}

Launches check_kernel(const Gpu& gpu, Kernel kernel, const Work& work, const Bytes& source, const Bytes& expected) {
  Launches launches;
  if (gpu.threads(kernel) == 0) return launches;
  for (const Grid grid : {Grid{1, warp}, Grid{3, 4 * warp}, Grid{40, gpu.threads(kernel)}}) {
    const auto found = copied(work, source, gpu, kernel, grid);
    if (!found) continue;
    const std::size_t bytes = different(expected, *found);
    ++(bytes == 0 ? launches.right : launches.wrong);
    if (bytes == 0) continue;
    const char* const how = kernel == Kernel::bulk    ? ", in bulk"
                            : kernel == Kernel::order ? ", told in parameters"
                                                      : "";
    std::printf("wrong: %zu of %zu bytes, %zu tiles, %u blocks of %u threads%s\n", bytes, expected.size(),
                work.tiles.size(), grid.blocks, grid.threads, how);
  }
  return launches;
}

int check_all(const char* image_path) {
  const Gpu gpu(contents(image_path));
  Random random(20261123);
  std::map<Kernel, Launches> launches;
  for (const Work& work : all_work(random)) {
    const Bytes source = random_bytes(work.source_bytes, random);
    const Bytes expected = copied_by_cpu(work, source);
    for (const Kernel kernel : {Kernel::plain, Kernel::bulk, Kernel::order}) {
      const Launches some = check_kernel(gpu, kernel, work, source, expected);
      launches[kernel].right += some.right;
      launches[kernel].wrong += some.wrong;
    }
  }
  Launches all;
  for (const auto& [kernel, some] : launches) {
    all.right += some.right;
    all.wrong += some.wrong;
  }
  std::printf("copy_kernel_check: %d of %d launches right, %d of them in bulk, %d told in parameters\n", all.right,
              all.right + all.wrong, launches[Kernel::bulk].right, launches[Kernel::order].right);
  return all.wrong == 0 && launches[Kernel::order].right > 0 ? 0 : 1;
}

}  // namespace

}  // namespace kvdirect

// copy_kernel_check FATBIN [DRIVER]: the kernels as nvcc -fatbin made it, and another libcuda than the system's.
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
