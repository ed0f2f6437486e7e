// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "error.h"

// One class per UCX object; each owns its handle. Everything here belongs to one thread, the engine's control thread,
// except where a method says otherwise.
namespace kvdirect::ucx {

// Throws Error(transport) unless `status` is UCS_OK.
void check(ucs_status_t status, const std::string& operation, const std::string& peer = {});

// UCX settings, set through the API so that the environment cannot change what the protocol relies on.
class Config {
 public:
  Config();
  Config(const Config&) = delete;
  Config& operator=(const Config&) = delete;
  ~Config();

  // `name` without the UCX_ prefix. Throws Error(config).
  void set(const std::string& name, const std::string& value);
  [[nodiscard]] const ucp_config_t* get() const noexcept { return _config; }

 private:
  ucp_config_t* _config = nullptr;
};

class Context {
 public:
  Context(const Config& config, std::uint64_t features, const std::string& name);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context();
  [[nodiscard]] ucp_context_h get() const noexcept { return _context; }

 private:
  ucp_context_h _context = nullptr;
};

// What an active message handler gets. The bytes live until the handler returns.
using AmHandler = std::function<void(std::span<const std::byte> header, std::span<const std::byte> data)>;

class Worker {
 public:
  // `rejected` is called, on the owning thread, for messages that are no plain eager data (a rendezvous offer).
  Worker(std::shared_ptr<Context> context, std::function<void()> rejected);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker();

  void on_message(unsigned id, AmHandler handler);
  // True if anything happened.
  bool progress() noexcept { return ucp_worker_progress(_worker) != 0; }
  // True if it is safe to sleep on event_fd(); false: progress again first.
  bool arm();
  [[nodiscard]] int event_fd() const;
  [[nodiscard]] std::vector<std::byte> address() const;
  [[nodiscard]] ucp_worker_h get() const noexcept { return _worker; }

 private:
  struct Slot {
    Worker* worker = nullptr;
    AmHandler handler;
  };
  static ucs_status_t receive(void* arg, const void* header, std::size_t header_length, void* data, std::size_t length,
                              const ucp_am_recv_param_t* param);

  std::shared_ptr<Context> _context;
  std::function<void()> _rejected;
  std::vector<std::unique_ptr<Slot>> _slots;
  ucp_worker_h _worker = nullptr;
};

// A send that UCX may still be working on. Its callback runs exactly once, from progress() or from within send().
using SendDone = std::function<void(ucs_status_t)>;

class Endpoint {
 public:
  // `failed` runs once, from progress(), when UCX finds the peer gone. Only mark there; close from outside.
  Endpoint(std::shared_ptr<Worker> worker, std::span<const std::byte> remote_address, std::string peer,
           std::function<void(ucs_status_t)> failed);
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;
  // Force-closes without waiting: the worker finishes the close while it progresses.
  ~Endpoint();

  // Copies header and payload, so the caller may forget both.
  void send(unsigned id, std::vector<std::byte> header, std::vector<std::byte> payload);
  // Gathers from `parts`, which must stay valid, with `header`, until `done` ran.
  void send_parts(unsigned id, std::span<const std::byte> header, std::span<const ucp_dt_iov_t> parts, SendDone done);

  // "tcp/lo": what UCX really chose.
  [[nodiscard]] std::string transports() const;

 private:
  static void on_error(void* arg, ucp_ep_h ep, ucs_status_t status);
  void post(unsigned id, std::span<const std::byte> header, const void* buffer, std::size_t count, bool parts,
            std::unique_ptr<struct Posted> posted);

  std::shared_ptr<Worker> _worker;
  std::string _peer;
  std::function<void(ucs_status_t)> _failed;
  ucp_ep_h _ep = nullptr;
};

// The file libucp was loaded from and its version, for reports.
[[nodiscard]] std::string library();

}  // namespace kvdirect::ucx
