// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "ucx.h"

#include <dlfcn.h>

#include <array>
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

Context::Context(const Config& config, std::uint64_t features, const std::string& name) {
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = features;
  params.name = name.c_str();
  params.mt_workers_shared = 0;
  check(ucp_init(&params, config.get(), &_context), "initialise UCX");
}

Context::~Context() { ucp_cleanup(_context); }

Worker::Worker(std::shared_ptr<Context> context, std::function<void()> rejected)
    : _context(std::move(context)), _rejected(std::move(rejected)) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS;

  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  params.events = UCP_WAKEUP_RX | UCP_WAKEUP_TX;
  check(ucp_worker_create(_context->get(), &params, &_worker), "create a UCX worker");
}

Worker::~Worker() { ucp_worker_destroy(_worker); }

ucs_status_t Worker::receive(void* arg, const void* header, std::size_t header_length, void* data, std::size_t length,
                             const ucp_am_recv_param_t* param) {
  const auto* slot = static_cast<Slot*>(arg);
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
    // Never fetched: answering a rendezvous would let a peer name addresses.
    slot->worker->_rejected();
    return UCS_OK;
  }
  slot->handler({static_cast<const std::byte*>(header), header_length}, {static_cast<const std::byte*>(data), length});
  return UCS_OK;
}

void Worker::on_message(unsigned id, AmHandler handler) {
  auto slot = std::make_unique<Slot>(Slot{this, std::move(handler)});
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG |
                      UCP_AM_HANDLER_PARAM_FIELD_FLAGS;
  params.id = id;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  params.cb = &Worker::receive;
  params.arg = slot.get();
  check(ucp_worker_set_am_recv_handler(_worker, &params), "register a message handler");
  _slots.push_back(std::move(slot));
}

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

// What a send keeps alive until UCX is done with it.
struct Posted {
  std::vector<std::byte> header;
  std::vector<std::byte> payload;
  SendDone done;
};

namespace {

void finish(Posted* posted, ucs_status_t status) {
  const std::unique_ptr<Posted> owned(posted);
  if (owned->done) owned->done(status);
}

void on_sent(void* request, ucs_status_t status, void* user_data) {
  ucp_request_free(request);
  finish(static_cast<Posted*>(user_data), status);
}

void on_closed(void* request, ucs_status_t /*status*/, void* /*user_data*/) { ucp_request_free(request); }

}  // namespace

Endpoint::Endpoint(std::shared_ptr<Worker> worker, std::span<const std::byte> remote_address, std::string peer,
                   std::function<void(ucs_status_t)> failed)
    : _worker(std::move(worker)), _peer(std::move(peer)), _failed(std::move(failed)) {
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(remote_address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {&Endpoint::on_error, this};
  check(ucp_ep_create(_worker->get(), &params, &_ep), "create an endpoint", _peer);
}

Endpoint::~Endpoint() {
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  params.cb.send = &on_closed;
  // Completes sends in flight with an error (their callbacks run) and never calls on_error again.
  ucp_ep_close_nbx(_ep, &params);
}

void Endpoint::on_error(void* arg, ucp_ep_h /*ep*/, ucs_status_t status) {
  auto* self = static_cast<Endpoint*>(arg);
  if (auto failed = std::exchange(self->_failed, nullptr)) failed(status);
}

void Endpoint::send(unsigned id, std::vector<std::byte> header, std::vector<std::byte> payload) {
  auto posted = std::make_unique<Posted>(Posted{std::move(header), std::move(payload), nullptr});
  const std::span<const std::byte> head = posted->header;
  const void* buffer = posted->payload.data();
  const std::size_t length = posted->payload.size();
  post(id, head, buffer, length, false, std::move(posted));
}

void Endpoint::send_parts(unsigned id, std::span<const std::byte> header, std::span<const ucp_dt_iov_t> parts,
                          SendDone done) {
  auto posted = std::make_unique<Posted>(Posted{{}, {}, std::move(done)});
  post(id, header, parts.data(), parts.size(), true, std::move(posted));
}

void Endpoint::post(unsigned id, std::span<const std::byte> header, const void* buffer, std::size_t count, bool parts,
                    std::unique_ptr<Posted> posted) {
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  // Eager always: a rendezvous would let the receiver fetch from addresses.
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  params.cb.send = &on_sent;
  params.user_data = posted.get();
  if (parts) {
    params.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
    params.datatype = ucp_dt_make_iov();
  }
  ucs_status_ptr_t request = ucp_am_send_nbx(_ep, id, header.data(), header.size(), buffer, count, &params);
  if (request == nullptr || UCS_PTR_IS_ERR(request)) {
    finish(posted.release(), request == nullptr ? UCS_OK : UCS_PTR_STATUS(request));
  } else {
    static_cast<void>(posted.release());  // on_sent takes it back
  }
}

std::string Endpoint::transports() const {
  std::array<ucp_transport_entry_t, 8> entries{};
  ucp_ep_attr_t attr{};
  attr.field_mask = UCP_EP_ATTR_FIELD_TRANSPORTS;
  attr.transports = {entries.data(), static_cast<unsigned>(entries.size()), sizeof(ucp_transport_entry_t)};
  if (ucp_ep_query(_ep, &attr) != UCS_OK) return "unknown";
  std::string text;
  for (unsigned i = 0; i < attr.transports.num_entries; ++i) {
    if (!text.empty()) text += ",";
    text += std::string(entries.at(i).transport_name) + "/" + entries.at(i).device_name;
  }
  return text;
}

std::string library() {
  Dl_info info{};
  const bool found = dladdr(reinterpret_cast<const void*>(&ucp_get_version_string), &info) != 0;
  return std::string("UCX ") + ucp_get_version_string() + " from " + (found ? info.dli_fname : "an unknown file");
}

}  // namespace kvdirect::ucx
