// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/non_copyable.h"
#include "cuda/gpu.h"
#include "lanes/leased_read.h"
#include "lanes/ucx.h"
#include "lease.h"
#include "memory/regions.h"
#include "net/event_thread.h"
#include "wire/messages.h"

namespace kvdirect {

// One owner as the rdma lane reaches it. The rdma thread's alone.
struct RdmaLink {
  struct Memory {
    std::uint64_t address = 0;
    std::optional<ucx::RemoteKey> key;  // none: the owner's network card does not reach it
  };
  std::unique_ptr<ucx::Endpoint> endpoint;  // null once it was lost
  std::vector<Memory> regions;
  std::vector<Memory> control_page;  // the lease words and the nonce
  static constexpr std::size_t words = 0;
  static constexpr std::size_t nonce = 1;
  std::string lost;  // why

  // Takes the endpoint down; what is in flight ends with an error.
  void close(const std::string& why);
};

// The engine's UCX context for one-sided reads, and the thread that owns it. It uses true RDMA devices only, where a
// peer reads what was registered without our processor, and never more than that. Whoever is admitted to the engine
// may read all its regions: a trust domain. GPU memory is read and written by the network card itself or not at all,
// unless staging is allowed.
class RdmaDomain : NonCopyable {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t words_of_scratch = 4;

  // Starts the thread. `devices`: UCX's names, or "all". `staging`: GPU memory may go through host memory. Throws
  // Error(lane) where this machine has no RDMA device.
  RdmaDomain(std::string name, std::string devices, bool staging);
  ~RdmaDomain() { stop(); }

  // Opens UCX, and registers what readers may read and pulls land in. Throws Error(lane) or Error(transport); GPU
  // memory that cannot be registered is left out, see why_no_cuda(). `gpu`: whose memory is registered; null: nobody's.
  void publish(const std::shared_ptr<const Published>& published, const std::shared_ptr<LeaseTable>& leases,
               const std::shared_ptr<const Gpu>& gpu);
  // What a reader needs; nullopt before publish().
  [[nodiscard]] std::optional<RdmaAccess> access() const;
  // Why no GPU memory is read or written here; empty if all that was published is, or there is none.
  [[nodiscard]] std::string why_no_cuda() const;
  // Why no pull lands in GPU memory here; empty where they do.
  [[nodiscard]] std::string why_not_into_cuda() const;
  // Fails what runs and joins the thread. Bounded.
  void stop() { _event_thread->stop(); }

  // Any thread; false once stopped.
  bool post(std::function<void()> command) { return _event_thread->post(std::move(command)); }
  // The rdma thread's.
  std::shared_ptr<RdmaLink> open(const RdmaAccess& owner, const std::string& peer);
  void forget(const std::shared_ptr<RdmaLink>& link, const std::string& why);
  // Steps it until it is done, at the latest when it asks for that, and whenever UCX did something.
  void start(std::shared_ptr<LeasedRead> read);
  void look_again() { _running->tick_by(Clock::now()); }
  [[nodiscard]] const ucx::Memory& memory(std::uint32_t region) const { return *_regions.at(region); }
  // Four registered words; nullopt when all are in use.
  [[nodiscard]] std::optional<std::uint32_t> take_scratch();
  void give_scratch(std::uint32_t slot) { _free_scratch.push_back(slot); }
  [[nodiscard]] std::uint64_t* scratch(std::uint32_t slot) noexcept {
    return _scratch.data() + words_of_scratch * slot;
  }
  [[nodiscard]] const ucx::Memory& scratch_memory() const { return *_scratch_memory; }
  // After the last byte of a pull into GPU memory, before it is called valid.
  void flush_gpu() const {
    if (_gpu) _gpu->flush();
  }

 private:
  void open_workers(bool with_cuda);
  RdmaAccess register_all(const Published& published, LeaseTable& leases);
  void register_region(std::size_t index, const Region& region);
  void read_own(std::size_t index, const Region& region);
  bool poll();
  Clock::time_point tick(Clock::time_point now);

  const std::string _name;
  const std::string _devices;
  const bool _staging;
  std::shared_ptr<const Gpu> _gpu;
  std::shared_ptr<ucx::Context> _context;
  // Two, for UCX would pair the endpoints of two engines that read from each other, and closing one would cut both.
  std::shared_ptr<ucx::Worker> _owner_worker;
  std::shared_ptr<ucx::Worker> _reader_worker;
  std::vector<std::unique_ptr<ucx::Memory>> _regions;  // null: GPU memory that is left out
  std::unique_ptr<ucx::Memory> _words;
  Token _nonce = random_token();
  std::unique_ptr<ucx::Memory> _nonce_memory;
  std::vector<std::uint64_t> _scratch;
  std::unique_ptr<ucx::Memory> _scratch_memory;
  std::vector<std::uint32_t> _free_scratch;
  std::list<std::shared_ptr<LeasedRead>> _reads;
  std::vector<std::shared_ptr<RdmaLink>> _links;
  mutable std::mutex _mutex;
  std::optional<RdmaAccess> _access;
  std::string _why_no_cuda;
  std::string _why_no_flush;
  EventThread* _running = nullptr;  // the rdma thread's view of it
  std::unique_ptr<EventThread> _event_thread;
};

}  // namespace kvdirect
