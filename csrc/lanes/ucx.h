// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/non_copyable.h"

// One class per UCX object; each owns its handle. Everything here belongs to one thread, the engine's rdma thread.
namespace kvdirect::ucx {

// Throws Error(transport) unless `status` is UCS_OK.
void check(ucs_status_t status, const std::string& operation, const std::string& peer = {});

// UCX settings, set through the API so that the environment cannot change what the lane relies on.
class Config : NonCopyable {
 public:
  Config();
  ~Config();

  // `name` without the UCX_ prefix. Throws Error(config).
  void set(const std::string& name, const std::string& value);
  // For settings of modules that a UCX may not have: false if this one does not know it.
  bool set_if_known(const std::string& name, const std::string& value);
  [[nodiscard]] const ucp_config_t* get() const noexcept { return _config; }

 private:
  ucp_config_t* _config = nullptr;
};

class Context : NonCopyable {
 public:
  Context(const Config& config, std::uint64_t features, const std::string& name);
  ~Context();
  // Some part of this UCX, among the transports that it was allowed, knows such memory.
  [[nodiscard]] bool knows(ucs_memory_type_t type) const;
  [[nodiscard]] ucp_context_h get() const noexcept { return _context; }

 private:
  ucp_context_h _context = nullptr;
};

// Memory that UCX may read from or into.
class Memory : NonCopyable {
 public:
  struct Range {
    void* address = nullptr;
    std::size_t length = 0;
    ucs_memory_type_t type = UCS_MEMORY_TYPE_HOST;  // said, so that UCX need not find out; gets go by it too
  };
  // `readable`: by peers that hold its key.
  Memory(std::shared_ptr<Context> context, const Range& range, bool readable);
  ~Memory();

  // What a peer needs to read it.
  [[nodiscard]] std::vector<std::byte> key() const;
  [[nodiscard]] ucp_mem_h get() const noexcept { return _memory; }

 private:
  std::shared_ptr<Context> _context;
  ucp_mem_h _memory = nullptr;
};

class Worker : NonCopyable {
 public:
  explicit Worker(std::shared_ptr<Context> context);
  ~Worker();

  // True if anything happened.
  bool progress() noexcept { return ucp_worker_progress(_worker) != 0; }
  // True if it is safe to sleep on event_fd(); false: progress again first.
  bool arm();
  [[nodiscard]] int event_fd() const;
  [[nodiscard]] std::vector<std::byte> address() const;
  [[nodiscard]] ucp_worker_h get() const noexcept { return _worker; }

 private:
  std::shared_ptr<Context> _context;
  ucp_worker_h _worker = nullptr;
};

class Endpoint;

// A peer's memory, as its key describes it.
class RemoteKey {
 public:
  RemoteKey(const Endpoint& endpoint, std::span<const std::byte> key);
  RemoteKey(RemoteKey&& other) noexcept : _key(std::exchange(other._key, nullptr)) {}
  RemoteKey& operator=(RemoteKey&&) = delete;
  ~RemoteKey();
  [[nodiscard]] ucp_rkey_h get() const noexcept { return _key; }

 private:
  ucp_rkey_h _key = nullptr;
};

class Endpoint : NonCopyable {
 public:
  // A get's end: from progress(), or from within get() or the destructor.
  using Done = std::function<void(ucs_status_t)>;

  // `failed` runs once, from progress(), when UCX finds the peer gone. Only mark there; close from outside. Null: UCX
  // need not look, for transports that cannot.
  Endpoint(std::shared_ptr<Worker> worker, std::span<const std::byte> remote_address, std::string peer,
           std::function<void(ucs_status_t)> failed);
  // Force-closes: gets in flight end with an error while the worker progresses.
  ~Endpoint();

  // Reads `length` bytes at the peer's `remote` into `local`, which is within `memory` and stays until `done` ran.
  void get(void* local, const Memory& memory, std::size_t length, std::uint64_t remote, const RemoteKey& key,
           Done done);

  [[nodiscard]] ucp_ep_h get() const noexcept { return _ep; }

 private:
  static void on_error(void* arg, ucp_ep_h ep, ucs_status_t status);

  std::shared_ptr<Worker> _worker;
  std::string _peer;
  std::function<void(ucs_status_t)> _failed;
  ucp_ep_h _ep = nullptr;
};

}  // namespace kvdirect::ucx
