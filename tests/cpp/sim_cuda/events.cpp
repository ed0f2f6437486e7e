// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "events.h"

#include "stream.h"

namespace kvdirect::sim {

void Event::reach(std::uint64_t number) noexcept {
  std::uint64_t before = _reached;
  while (before < number && !_reached.compare_exchange_weak(before, number)) {
  }
  _reached.notify_all();
}

void Event::wait(std::uint64_t number) const {
  for (std::uint64_t now = _reached; now < number; now = _reached) _reached.wait(now);
}

namespace {
std::atomic<std::size_t> looks = 0;
}
void count_look() { ++looks; }
std::size_t count_looks() { return looks; }

Registry<Event, CUevent>& events() {
  static auto& all = *new Registry<Event, CUevent>("event", 0x7c03'0000'0000);
  return all;
}

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuEventCreate(CUevent* handle, unsigned int flags) {
  return call_in_context("cuEventCreate", [&](Context& context) {
    if (!handle) refuse(CUDA_ERROR_INVALID_VALUE, "nowhere to put the event");
    if ((flags & ~(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING)) != 0) {
      refuse(CUDA_ERROR_INVALID_VALUE, "unknown flags " + hex(flags) + ", or events between processes");
    }
    *handle = events().add(std::make_shared<Event>(context));
  });
}

CUresult CUDAAPI cuEventRecord(CUevent handle, CUstream stream_handle) {
  return call_in_context("cuEventRecord", [&](Context& context) {
    const auto event = events().find(handle);
    const auto stream = find_stream(context, stream_handle);
    if (&event->context() != &stream->context()) {
      refuse(CUDA_ERROR_INVALID_HANDLE, "the event and the stream are of different contexts");
    }
    stream->add([event, number = event->record()] { event->reach(number); });
  });
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream stream_handle, CUevent handle, unsigned int flags) {
  return call_in_context("cuStreamWaitEvent", [&](Context& context) {
    if (flags != CU_EVENT_WAIT_DEFAULT) refuse(CUDA_ERROR_INVALID_VALUE, "unknown flags " + hex(flags));
    const auto event = events().find(handle);
    find_stream(context, stream_handle)->add([event, number = event->recorded()] { event->wait(number); });
  });
}

// Needs no current context.
CUresult CUDAAPI cuEventQuery(CUevent handle) {
  count_look();
  return call("cuEventQuery", [&] {
    const auto event = events().find(handle);
    event->context().check();
    if (!event->done()) refuse(CUDA_ERROR_NOT_READY, "the work before it is not done");
  });
}

CUresult CUDAAPI cuEventDestroy(CUevent handle) {
  return call_in_context("cuEventDestroy", [&](const Context&) { static_cast<void>(events().take(handle)); });
}

}  // extern "C"
