// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/ucx.h"

#include <utility>

namespace kvdirect::ucx {

void check(ucs_status_t status, const std::string& operation, const std::string& peer) {
  if (status == UCS_OK) return;
  throw Error(Errc::transport, "UCX failed",
              {.operation = operation, .peer = peer, .status = ucs_status_string(status)});
}

Config::Config() { check(ucp_config_read(nullptr, nullptr, &_config), "read the UCX configuration"); }

Config::~Config() { ucp_config_release(_config); }

void Config::set(const std::string& name, const std::string& value) {
  const ucs_status_t status = ucp_config_modify(_config, name.c_str(), value.c_str());
  if (status == UCS_OK) return;
  throw Error(
      Errc::config, "UCX refused the setting " + name + "=" + value,
      {.operation = "configure UCX", .status = ucs_status_string(status), .hint = "supported: UCX 1.19 to 1.22"});
}

bool Config::set_if_known(const std::string& name, const std::string& value) {
  return ucp_config_modify(_config, name.c_str(), value.c_str()) == UCS_OK;
}

Context::Context(const Config& config, std::uint64_t features, const std::string& name) {
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = features;
  params.name = name.c_str();
  params.mt_workers_shared = 0;
  check(ucp_init(&params, config.get(), &_context), "initialise UCX");
}

Context::~Context() { ucp_cleanup(_context); }

bool Context::knows(ucs_memory_type_t type) const {
  ucp_context_attr_t attr{};
  attr.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  check(ucp_context_query(_context, &attr), "ask UCX which memory it knows");
  return (attr.memory_types & UCS_BIT(type)) != 0;
}

Memory::Memory(std::shared_ptr<Context> context, const Range& range, bool readable) : _context(std::move(context)) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_PROT |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.address = range.address;
  params.length = range.length;
  params.memory_type = range.type;
  params.prot = UCP_MEM_MAP_PROT_LOCAL_READ | UCP_MEM_MAP_PROT_LOCAL_WRITE;
  if (readable) params.prot |= UCP_MEM_MAP_PROT_REMOTE_READ;
  check(ucp_mem_map(_context->get(), &params, &_memory), "register memory with UCX");
}

Memory::~Memory() { ucp_mem_unmap(_context->get(), _memory); }

std::vector<std::byte> Memory::key() const {
  void* packed = nullptr;
  std::size_t length = 0;
  check(ucp_rkey_pack(_context->get(), _memory, &packed, &length), "describe memory to peers");
  const auto* first = static_cast<const std::byte*>(packed);
  std::vector<std::byte> bytes(first, first + length);
  ucp_rkey_buffer_release(packed);
  return bytes;
}

RemoteKey::RemoteKey(const Endpoint& endpoint, std::span<const std::byte> key) {
  check(ucp_ep_rkey_unpack(endpoint.get(), key.data(), &_key), "take the owner's memory key");
}

RemoteKey::~RemoteKey() {
  if (_key != nullptr) ucp_rkey_destroy(_key);
}

Worker::Worker(std::shared_ptr<Context> context) : _context(std::move(context)) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  params.events = UCP_WAKEUP_RMA | UCP_WAKEUP_RX | UCP_WAKEUP_TX;
  check(ucp_worker_create(_context->get(), &params, &_worker), "create a UCX worker");
}

Worker::~Worker() { ucp_worker_destroy(_worker); }

bool Worker::arm() {
  const ucs_status_t status = ucp_worker_arm(_worker);
  if (status == UCS_ERR_BUSY) return false;
  check(status, "arm the UCX worker");
  return true;
}

int Worker::event_fd() const {
  int fd = -1;
  check(ucp_worker_get_efd(_worker, &fd), "get the UCX worker's event descriptor");
  return fd;
}

std::vector<std::byte> Worker::address() const {
  ucp_address_t* address = nullptr;
  std::size_t length = 0;
  check(ucp_worker_get_address(_worker, &address, &length), "get the UCX worker's address");
  const auto* first = reinterpret_cast<const std::byte*>(address);
  std::vector<std::byte> bytes(first, first + length);
  ucp_worker_release_address(_worker, address);
  return bytes;
}

namespace {

void on_closed(void* request, ucs_status_t /*status*/, void* /*user_data*/) { ucp_request_free(request); }

void on_got(void* request, ucs_status_t status, void* user_data) {
  const std::unique_ptr<Endpoint::Done> done(static_cast<Endpoint::Done*>(user_data));
  ucp_request_free(request);
  (*done)(status);
}

}  // namespace

Endpoint::Endpoint(std::shared_ptr<Worker> worker, std::span<const std::byte> remote_address, std::string peer,
                   std::function<void(ucs_status_t)> failed)
    : _worker(std::move(worker)), _peer(std::move(peer)), _failed(std::move(failed)) {
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(remote_address.data());
  params.err_mode = _failed ? UCP_ERR_HANDLING_MODE_PEER : UCP_ERR_HANDLING_MODE_NONE;
  params.err_handler = {&Endpoint::on_error, this};
  check(ucp_ep_create(_worker->get(), &params, &_ep), "create an endpoint", _peer);
}

Endpoint::~Endpoint() {
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  params.cb.send = &on_closed;
  // Completes what is in flight with an error (callbacks run) and never calls on_error again.
  ucp_ep_close_nbx(_ep, &params);
}

void Endpoint::on_error(void* arg, ucp_ep_h /*ep*/, ucs_status_t status) {
  auto* self = static_cast<Endpoint*>(arg);
  if (auto failed = std::exchange(self->_failed, nullptr)) failed(status);
}

void Endpoint::get(void* local, const Memory& memory, std::size_t length, std::uint64_t remote, const RemoteKey& key,
                   Done done) {
  auto kept = std::make_unique<Done>(std::move(done));
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMH;
  params.cb.send = &on_got;
  params.user_data = kept.get();
  params.memh = memory.get();
  ucs_status_ptr_t request = ucp_get_nbx(_ep, local, length, remote, key.get(), &params);
  if (request == nullptr || UCS_PTR_IS_ERR(request)) {
    (*kept)(request == nullptr ? UCS_OK : UCS_PTR_STATUS(request));
  } else {
    static_cast<void>(kept.release());  // on_got takes it back
  }
}

}  // namespace kvdirect::ucx
