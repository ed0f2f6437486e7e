// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "stream.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/threads.h"

namespace kvdirect::sim {

namespace {

constexpr int lowest_priority = 0;
constexpr int highest_priority = -5;

std::atomic<unsigned>& delay_us() {
  static std::atomic<unsigned> value = [] {
    const char* wanted = std::getenv("KVDIRECT_SIM_CUDA_DELAY_US");
    return wanted ? static_cast<unsigned>(std::strtoul(wanted, nullptr, 10)) : 0U;
  }();
  return value;
}

}  // namespace

void set_delay_us(unsigned microseconds) noexcept { delay_us() = microseconds; }

std::shared_ptr<Stream> Stream::start(Context& context, unsigned flags) {
  if ((flags & ~CU_STREAM_NON_BLOCKING) != 0) refuse(CUDA_ERROR_INVALID_VALUE, "unknown flags " + hex(flags));
  std::shared_ptr<Stream> made(new Stream(context));
  std::thread([made] {
    block_signals();
    name_thread("sim-cuda-stream");
    made->run();
  }).detach();
  return made;
}

void Stream::add(Work work) {
  const std::lock_guard lock(_mutex);
  if (_closed) refuse(CUDA_ERROR_INVALID_HANDLE, "the stream was destroyed");
  _queue.push_back(std::move(work));
  ++_added;
  _changed.notify_all();
}

void Stream::wait() {
  std::unique_lock lock(_mutex);
  _changed.wait(lock, [this, until = _added] { return _done >= until; });
}

void Stream::close() {
  const std::lock_guard lock(_mutex);
  _closed = true;
  _changed.notify_all();
}

void Stream::run() {
  std::unique_lock lock(_mutex);
  while (true) {
    _changed.wait(lock, [this] { return !_queue.empty() || _closed; });
    if (_queue.empty()) return;
    Work work = std::move(_queue.front());
    _queue.pop_front();
    lock.unlock();
    execute(work);
    work = nullptr;  // what it holds goes before the wait for it ends
    lock.lock();
    ++_done;
    _changed.notify_all();
  }
}

void Stream::execute(const Work& work) noexcept {
  if (const unsigned delay = delay_us()) std::this_thread::sleep_for(std::chrono::microseconds(delay));
  // Nothing runs in a context that failed.
  if (_context.error() != CUDA_SUCCESS) return;
  try {
    work();
  } catch (const Fault& fault) {
    _context.fail(fault);
  }
}

Registry<Stream, CUstream>& streams() {
  static auto& all = *new Registry<Stream, CUstream>("stream", 0x7c02'0000'0000);
  return all;
}

bool is_stream_zero(CUstream handle) noexcept { return handle == nullptr || handle == CU_STREAM_LEGACY; }

std::shared_ptr<Stream> find_stream(Context& context, CUstream handle) {
  if (is_stream_zero(handle)) return context.default_stream();
  if (handle == CU_STREAM_PER_THREAD) refuse(CUDA_ERROR_NOT_SUPPORTED, "streams of threads are not simulated");
  return streams().find(handle);
}

std::shared_ptr<Stream> need_own_stream(Context& context, CUstream handle) {
  auto stream = find_stream(context, handle);
  if (&stream->context() != &context) refuse(CUDA_ERROR_INVALID_HANDLE, "the stream is of another context");
  return stream;
}

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return call_in_context("cuCtxGetStreamPriorityRange", [&](const Context&) {
    if (least) *least = lowest_priority;
    if (greatest) *greatest = highest_priority;
  });
}

// Priorities out of range are clamped; here they change nothing.
CUresult CUDAAPI cuStreamCreateWithPriority(CUstream* handle, unsigned int flags, int /*priority*/) {
  return call_in_context("cuStreamCreateWithPriority", [&](Context& context) {
    if (!handle) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the stream");
    *handle = streams().add(Stream::start(context, flags));
  });
}

CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
  return call_in_context("cuStreamDestroy", [&](const Context&) { streams().take(handle)->close(); });
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
  return call_in_context("cuStreamSynchronize", [&](Context& context) {
    const auto stream = find_stream(context, handle);
    stream->wait();
    stream->context().check();
  });
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
  return call_in_context("cuLaunchHostFunc", [&](Context& context) {
    if (!function) refuse(CUDA_ERROR_INVALID_VALUE, "no function");
    need_own_stream(context, handle)->add([function, data] {
      const InHostFunction here;
      function(data);
    });
  });
}

}  // extern "C"
