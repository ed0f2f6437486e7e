// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "context.h"
#include "registry.h"

namespace kvdirect::sim {

// Work in order, on a thread of its own: that thread never keeps a process from ending. No stream waits for another,
// stream 0 included, which on a GPU waits for streams that are not made CU_STREAM_NON_BLOCKING.
class Stream {
 public:
  // Throws Fault if it fails as work on a GPU does.
  using Work = std::function<void()>;

  [[nodiscard]] static std::shared_ptr<Stream> start(Context& context, unsigned flags);

  [[nodiscard]] Context& context() const noexcept { return _context; }

  void add(Work work);
  // Until what was added so far is done. The caller holds no lock that work may want.
  void wait();
  // What was added is still done; then the thread ends.
  void close();

 private:
  explicit Stream(Context& context) : _context(context) {}
  void run();
  void execute(const Work& work) noexcept;

  Context& _context;
  std::mutex _mutex;
  std::condition_variable _changed;
  std::deque<Work> _queue;
  std::uint64_t _added = 0;
  std::uint64_t _done = 0;
  bool _closed = false;
};

[[nodiscard]] Registry<Stream, CUstream>& streams();

// The stream of a handle, stream 0 included. Throws Refusal.
[[nodiscard]] std::shared_ptr<Stream> find_stream(Context& context, CUstream handle);
// Likewise, where it must be of the calling thread's context.
[[nodiscard]] std::shared_ptr<Stream> need_own_stream(Context& context, CUstream handle);
[[nodiscard]] bool is_stream_zero(CUstream handle) noexcept;

// How long each piece of work sleeps first; KVDIRECT_SIM_CUDA_DELAY_US sets what it is in the beginning.
void set_delay_us(unsigned microseconds) noexcept;

}  // namespace kvdirect::sim
