// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <future>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "lanes/ucx.h"
#include "yardsticks.h"
#ifdef KVDIRECT_WITH_CUDA
#include "cuda/handles.h"
#endif

// UCX's own get, one for each block, over whatever transports UCX chooses. It trusts
// addresses from the other side, which only a benchmark between a user's own processes may do.
namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Clock = std::chrono::steady_clock;
using NoGil = nb::call_guard<nb::gil_scoped_release>;

constexpr std::size_t most_in_flight = 64;
constexpr int look_again_ms = 100;

std::span<const std::byte> bytes_of(const nb::bytes& bytes) {
  return {static_cast<const std::byte*>(bytes.data()), bytes.size()};
}

nb::bytes as_python(const std::vector<std::byte>& bytes) { return nb::bytes(bytes.data(), bytes.size()); }

std::shared_ptr<ucx::Context> make_context() {
  return std::make_shared<ucx::Context>(ucx::Config(), UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP, "kvdirect-bench");
}

// Throws Error(lane) for memory of a GPU where this UCX knows none: it would take the addresses for the host's.
ucx::Memory::Range range(const ucx::Context& context, std::uintptr_t address, std::size_t length, bool cuda) {
  const auto type = cuda ? UCS_MEMORY_TYPE_CUDA : UCS_MEMORY_TYPE_HOST;
  if (!context.knows(type)) throw Error(Errc::lane, "this UCX has no CUDA", {.operation = "register memory with UCX"});
  return {reinterpret_cast<void*>(address), length, type};  // NOLINT: an address from Python
}

// The context of the GPU that memory is on, for threads that never had one: where a worker is made UCX decides by the
// thread's which transports take the GPU's memory.
#ifdef KVDIRECT_WITH_CUDA
class GpuContext {
 public:
  // Where the thread has a context, as it does that allocated the memory.
  GpuContext(std::uintptr_t address, bool cuda) {
    if (!cuda) return;
    int ordinal = 0;
    check_cuda(pointer_attribute(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address, ordinal), "ask where the memory is");
    _context = std::make_shared<const PrimaryContext>(ordinal);
  }

  // It is the thread's while what is returned lives.
  [[nodiscard]] std::unique_ptr<const Current> enter() const {
    return _context ? std::make_unique<const Current>(*_context) : nullptr;
  }

 private:
  ContextPtr _context;  // null: the memory is the host's
};
#else
struct GpuContext {
  GpuContext(std::uintptr_t /*address*/, bool /*cuda*/) {}
  [[nodiscard]] std::nullptr_t enter() const { return nullptr; }
};
#endif

// Memory that others read; a thread answers for the transports that need one.
class UcxSource {
 public:
  UcxSource(std::uintptr_t address, std::size_t length, bool cuda) : _context(make_context()) {
    _memory = std::make_unique<ucx::Memory>(_context, range(*_context, address, length, cuda), true);
    _gpu = std::make_unique<const GpuContext>(address, cuda);
    std::promise<std::vector<std::byte>> started;
    auto where = started.get_future();
    _thread =
        std::jthread([this, promise = std::move(started)](const std::stop_token& stop) mutable { run(stop, promise); });
    _address = where.get();
  }

  [[nodiscard]] nb::bytes address() const { return as_python(_address); }
  [[nodiscard]] nb::bytes key() const { return as_python(_memory->key()); }

  void close() {
    if (!_thread.joinable()) return;
    _thread.request_stop();
    _thread.join();
  }

 private:
  void run(const std::stop_token& stop, std::promise<std::vector<std::byte>>& started) {
    block_signals();
    try {
      [[maybe_unused]] const auto current = _gpu->enter();
      ucx::Worker worker(_context);
      started.set_value(worker.address());
      while (!stop.stop_requested()) {
        if (worker.progress() || !worker.arm()) continue;
        pollfd waiting{worker.event_fd(), POLLIN, 0};
        poll(&waiting, 1, look_again_ms);
      }
    } catch (...) {
      try {
        started.set_exception(std::current_exception());
      } catch (const std::future_error&) {  // it had started: readers will find nobody answering
      }
    }
  }

  std::shared_ptr<ucx::Context> _context;
  std::unique_ptr<ucx::Memory> _memory;
  std::unique_ptr<const GpuContext> _gpu;
  std::vector<std::byte> _address;
  std::jthread _thread;
};

// Reads a source's blocks into memory of its own. One thread's.
class UcxTarget {
 public:
  UcxTarget(std::uintptr_t address, std::size_t length, const nb::bytes& source, const nb::bytes& key,
            std::uintptr_t source_base, bool cuda)
      : _base(address),
        _source_base(source_base),
        _context(make_context()),
        _worker(std::make_shared<ucx::Worker>(_context)),
        _memory(_context, range(*_context, address, length, cuda), false),
        _endpoint(_worker, bytes_of(source), "source", nullptr),
        _key(_endpoint, bytes_of(key)) {}

  // "rc_mlx5/mlx5_0:1": what UCX really chose.
  [[nodiscard]] std::string transports() const {
    std::array<ucp_transport_entry_t, 8> entries{};
    ucp_ep_attr_t attr{};
    attr.field_mask = UCP_EP_ATTR_FIELD_TRANSPORTS;
    attr.transports = {entries.data(), static_cast<unsigned>(entries.size()), sizeof(ucp_transport_entry_t)};
    if (ucp_ep_query(_endpoint.get(), &attr) != UCS_OK) return "unknown";
    std::string text;
    for (unsigned i = 0; i < attr.transports.num_entries; ++i) {
      if (!text.empty()) text += ",";
      text += std::string(entries.at(i).transport_name) + "/" + entries.at(i).device_name;
    }
    return text;
  }

  void pull(const Offsets& to, const Offsets& from, std::size_t block_bytes, double seconds) {
    if (to.size() != from.size()) throw Error(Errc::config, "the two lists of offsets differ in length");
    const auto span = std::chrono::duration<double>(std::clamp(seconds, 0.0, 3600.0));
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(span);
    const nb::gil_scoped_release unlocked;
    for (std::size_t i = 0; i < to.size(); ++i) {
      settle(most_in_flight - 1, deadline);
      ++_in_flight;
      auto* const local = reinterpret_cast<std::byte*>(_base) + to.data()[i];  // NOLINT
      const std::uint64_t remote = _source_base + static_cast<std::uint64_t>(from.data()[i]);
      _endpoint.get(local, _memory, block_bytes, remote, _key, [this](ucs_status_t status) {
        --_in_flight;
        if (status != UCS_OK) _failed = status;
      });
    }
    settle(0, deadline);
    ucx::check(std::exchange(_failed, UCS_OK), "get");
  }

 private:
  void settle(std::size_t most, Clock::time_point deadline) {
    while (_in_flight > most) {
      if (!_worker->progress() && Clock::now() > deadline) {
        throw Error(Errc::timeout, "UCX did not finish its gets in time", {.operation = "get"});
      }
    }
  }

  std::uintptr_t _base;
  std::uintptr_t _source_base;
  std::size_t _in_flight = 0;
  ucs_status_t _failed = UCS_OK;
  std::shared_ptr<ucx::Context> _context;
  std::shared_ptr<ucx::Worker> _worker;
  ucx::Memory _memory;
  ucx::Endpoint _endpoint;
  ucx::RemoteKey _key;
};

}  // namespace

void bind_ucx_gets(nb::module_& module) {
  nb::class_<UcxSource>(module, "UcxSource", "Memory that UcxTargets read.")
      .def(nb::init<std::uintptr_t, std::size_t, bool>(), "address"_a, "length"_a, "cuda"_a)
      .def("address", &UcxSource::address)
      .def("key", &UcxSource::key)
      .def("close", &UcxSource::close, NoGil());
  nb::class_<UcxTarget>(module, "UcxTarget", "Reads blocks of a UcxSource by UCX's own get.")
      .def(nb::init<std::uintptr_t, std::size_t, const nb::bytes&, const nb::bytes&, std::uintptr_t, bool>(),
           "address"_a, "length"_a, "source"_a, "key"_a, "source_base"_a, "cuda"_a)
      .def("transports", &UcxTarget::transports)
      .def("pull", &UcxTarget::pull, "to"_a, "from_"_a, "block_bytes"_a, "seconds"_a);
}

}  // namespace kvdirect
