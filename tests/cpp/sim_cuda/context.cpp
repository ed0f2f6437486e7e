// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "context.h"

#include <charconv>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "events.h"
#include "mappings.h"
#include "modules.h"
#include "stream.h"

namespace kvdirect::sim {

namespace {

constexpr unsigned most_gpus = 2;

unsigned number(std::string_view text, unsigned otherwise) {
  unsigned value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  return status == std::errc() && end == text.data() + text.size() ? value : otherwise;
}

// As CUDA_VISIBLE_DEVICES chooses: what follows the first that does not exist is not seen.
std::vector<unsigned> visible_gpus() {
  const char* wanted = std::getenv("KVDIRECT_SIM_GPUS");
  const unsigned gpus = std::min(wanted ? number(wanted, 1) : 1, most_gpus);
  const char* chosen = std::getenv("CUDA_VISIBLE_DEVICES");
  std::vector<unsigned> seen;
  if (!chosen) {
    for (unsigned gpu = 0; gpu < gpus; ++gpu) seen.push_back(gpu);
    return seen;
  }
  for (std::string_view rest = chosen; !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const unsigned gpu = number(rest.substr(0, comma), gpus);
    if (gpu >= gpus) break;
    seen.push_back(gpu);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return seen;
}

// Never destroyed, as nothing here is: threads of streams may outlive the end of main().
std::vector<std::unique_ptr<Context>>& contexts() {
  static auto& all = *[] {
    auto made = std::make_unique<std::vector<std::unique_ptr<Context>>>();
    for (const unsigned gpu : visible_gpus()) {
      made->push_back(std::make_unique<Context>(static_cast<CUdevice>(made->size()), gpu));
    }
    return made.release();
  }();
  return all;
}

thread_local std::vector<CUcontext> stack;

Context& context_of(CUcontext handle) {
  for (const auto& context : contexts()) {
    if (context->handle() == handle) return *context;
  }
  refuse(CUDA_ERROR_INVALID_CONTEXT, hex(reinterpret_cast<std::uintptr_t>(handle)) + " is no context");
}

}  // namespace

CUcontext Context::handle() const noexcept {
  return reinterpret_cast<CUcontext>(std::uintptr_t{0x7c01'0000'0000} + 16 * static_cast<std::uintptr_t>(_device));
}

void Context::retain() {
  const std::lock_guard lock(_mutex);
  ++_references;
}

void Context::release() {
  const std::lock_guard lock(_mutex);
  if (_references == 0) refuse(CUDA_ERROR_INVALID_CONTEXT, "the primary context was not retained");
  if (--_references == 0) end();
}

void Context::end() {
  const auto left_streams = streams().take_all(*this);
  auto all = left_streams;
  if (_default_stream) all.push_back(std::move(_default_stream));
  for (const auto& stream : all) {
    stream->wait();
    stream->close();
  }
  const std::size_t left_events = events().take_all(*this).size();
  const std::size_t left_modules = modules().take_all(*this).size();
  const std::size_t left_mappings = drop_mappings(*this);
  _error = CUDA_SUCCESS;
  if (left_streams.empty() && left_events + left_modules + left_mappings == 0) return;
  say("a context ends that still had " + std::to_string(left_streams.size()) + " streams, " +
      std::to_string(left_events) + " events, " + std::to_string(left_modules) + " modules and " +
      std::to_string(left_mappings) + " allocations");
}

std::shared_ptr<Stream> Context::default_stream() {
  const std::lock_guard lock(_mutex);
  if (!_default_stream) _default_stream = Stream::start(*this, 0);
  return _default_stream;
}

void Context::fail(const Fault& fault) {
  CUresult none = CUDA_SUCCESS;
  say(std::string(error_name(fault.result)) + ": " + fault.why);
  _error.compare_exchange_strong(none, fault.result);
}

void Context::check() const {
  if (_references == 0) refuse(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the primary context was released");
  if (const CUresult failed = _error; failed != CUDA_SUCCESS) refuse(failed, "work in this context failed before");
}

Context& current_context() {
  if (stack.empty() || !stack.back()) refuse(CUDA_ERROR_INVALID_CONTEXT, "this thread has no current context");
  Context& context = context_of(stack.back());
  context.check();
  return context;
}

Context& context_of(CUdevice device) {
  if (device < 0 || static_cast<std::size_t>(device) >= contexts().size()) {
    refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU " + std::to_string(device));
  }
  return *contexts()[static_cast<std::size_t>(device)];
}

int count_devices() { return static_cast<int>(contexts().size()); }

Link link_between_gpus() {
  const char* said = std::getenv("KVDIRECT_SIM_CUDA_LINK");
  const std::string_view link = said ? said : "nvlink";
  if (link == "none") return Link::none;
  return link == "pcie" ? Link::pcie : Link::nvlink;
}

void check_reach(const Context& context, unsigned gpu) {
  if (context.gpu() == gpu || link_between_gpus() != Link::none) return;
  refuse(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "GPU " + std::to_string(gpu) + " cannot be reached");
}

Context* context_of_gpu(unsigned gpu) {
  for (const auto& context : contexts()) {
    if (context->gpu() == gpu) return context.get();
  }
  return nullptr;
}

std::size_t retained_contexts() {
  std::size_t count = 0;
  for (const auto& context : contexts()) count += context->references();
  return count;
}

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuInit(unsigned int flags) {
  return call_uninitialised("cuInit", [&] {
    if (flags != 0) refuse(CUDA_ERROR_INVALID_VALUE, "flags must be 0");
    if (contexts().empty()) refuse(CUDA_ERROR_NO_DEVICE, "CUDA_VISIBLE_DEVICES or KVDIRECT_SIM_GPUS leaves none");
    mark_initialised();
  });
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return call("cuDevicePrimaryCtxRetain", [&] {
    Context& found = context_of(device);
    if (!context) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the context");
    found.retain();
    *context = found.handle();
  });
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) {
  return call("cuDevicePrimaryCtxRelease", [&] { context_of(device).release(); });
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext context) {
  return call("cuCtxPushCurrent", [&] {
    if (context_of(context).references() == 0) {
      refuse(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the primary context was released");
    }
    stack.push_back(context);
  });
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext* context) {
  return call("cuCtxPopCurrent", [&] {
    if (stack.empty()) refuse(CUDA_ERROR_INVALID_CONTEXT, "this thread has no current context");
    if (context) *context = stack.back();
    stack.pop_back();
  });
}

}  // extern "C"
