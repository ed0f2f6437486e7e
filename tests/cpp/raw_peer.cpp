// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// A hostile peer: it knows where an engine listens and what its messages look like, and was never admitted. It tries
// to read and write the engine's memory and to make it do things, and prints as JSON what it managed. Every wait has
// a deadline; an operation that never completes is what the engine wants.
//
//   kvdirect_raw_peer [--knock] DESCRIPTOR_HEX ADDRESS LENGTH SLOT EPOCH PORT...
//
// ADDRESS, LENGTH: memory in the victim. SLOT, EPOCH: a live lease of it. PORT...: every port it listens on.
// --knock: come through the gate with the descriptor's secret, and only misbehave behind it.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "descriptor.h"
#include "knock.h"
#include "protocol.h"

namespace {

using kvdirect::Bytes;
using kvdirect::MessageId;
using Clock = std::chrono::steady_clock;

constexpr auto first_patience = std::chrono::milliseconds(1500);
constexpr auto later_patience = std::chrono::milliseconds(10);

struct Victim {
  kvdirect::Descriptor descriptor;
  std::uint64_t address = 0;
  std::size_t length = 0;
  kvdirect::LeaseRef lease;
  std::vector<std::uint16_t> ports;
  bool knock = false;  // come through the gate, with the secret of the descriptor
};

Bytes from_hex(const std::string& text) {
  Bytes bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoul(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

void require(ucs_status_t status, const char* what) {
  if (status == UCS_OK) return;
  std::fprintf(stderr, "%s: %s\n", what, ucs_status_string(status));
  std::exit(2);
}

// A UCX peer with everything switched on, and one connection to the victim. Not cleaned up beyond the endpoint: the
// process ends soon.
class Attacker {
 public:
  explicit Attacker(const Victim& victim) {
    ucp_config_t* config = nullptr;
    require(ucp_config_read(nullptr, nullptr, &config), "config");
    ucp_config_modify(config, "TLS", "tcp");
    ucp_config_modify(config, "NET_DEVICES", "lo");
    // Emulated puts of more than this go out as the transport's own.
    ucp_config_modify(config, "ZCOPY_THRESH", "0");
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_RMA | UCP_FEATURE_AMO64 | UCP_FEATURE_TAG;
    require(ucp_init(&params, config, &_context), "init");
    ucp_config_release(config);
    ucp_worker_params_t worker{};
    require(ucp_worker_create(_context, &worker, &_worker), "worker");
    ucp_ep_params_t ep{};
    ep.field_mask =
        UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    ep.address = reinterpret_cast<const ucp_address_t*>(victim.descriptor.worker_address.data());
    ep.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    ep.err_handler.cb = [](void*, ucp_ep_h, ucs_status_t) {};
    if (victim.knock) {
      const auto deadline = Clock::now() + first_patience;
      _knock = std::make_unique<kvdirect::Knock>(victim.descriptor.gate, victim.descriptor.admission,
                                                 kvdirect::TcpAddress::parse("127.0.0.1", 9), deadline);
    }
    require(ucp_ep_create(_worker, &ep, &_ep), "endpoint");
    if (_knock) _knock->vouch(Clock::now() + first_patience);
  }

  // What became of an operation: "never completed" or UCX's word.
  std::string wait(ucs_status_ptr_t request) {
    if (UCS_PTR_IS_ERR(request)) return ucs_status_string(UCS_PTR_STATUS(request));
    const auto deadline = Clock::now() + _patience;
    while (request != nullptr && ucp_request_check_status(request) == UCS_INPROGRESS) {
      if (Clock::now() > deadline) {
        _patience = later_patience;
        return "never completed";
      }
      ucp_worker_progress(_worker);
    }
    return request == nullptr ? "done" : ucs_status_string(ucp_request_check_status(request));
  }

  std::string flush() {
    ucp_request_param_t param{};
    return wait(ucp_ep_flush_nbx(_ep, &param));
  }

  // The same operation on the victim's memory with a key of our own memory.
  std::string access(bool put, std::uint64_t address, std::vector<char>& local) {
    ucp_mem_map_params_t map{};
    map.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
    map.address = local.data();
    map.length = local.size();
    ucp_mem_h memory = nullptr;
    require(ucp_mem_map(_context, &map, &memory), "map");
    void* packed = nullptr;
    std::size_t packed_length = 0;
    require(ucp_rkey_pack(_context, memory, &packed, &packed_length), "pack");
    ucp_rkey_h key = nullptr;
    require(ucp_ep_rkey_unpack(_ep, packed, &key), "unpack");
    ucp_request_param_t param{};
    const std::string posted = wait(put ? ucp_put_nbx(_ep, local.data(), local.size(), address, key, &param)
                                        : ucp_get_nbx(_ep, local.data(), local.size(), address, key, &param));
    return posted + ", flush " + flush();
  }

  std::string message(unsigned id, const Bytes& header, const Bytes& body, unsigned flags) {
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = flags;
    // UCX goes on with what did not complete in time.
    const Bytes& kept_header = _kept.emplace_back(header);
    const Bytes& kept_body = _kept.emplace_back(body);
    return wait(
        ucp_am_send_nbx(_ep, id, kept_header.data(), kept_header.size(), kept_body.data(), kept_body.size(), &param));
  }

 private:
  ucp_context_h _context = nullptr;
  ucp_worker_h _worker = nullptr;
  ucp_ep_h _ep = nullptr;
  std::unique_ptr<kvdirect::Knock> _knock;
  std::deque<Bytes> _kept;
  Clock::duration _patience = first_patience;
};

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

std::string try_access(const Victim& victim, bool put, std::size_t length) {
  Attacker attacker(victim);
  std::vector<char> local(length, put ? 'X' : 'G');
  const std::string status = attacker.access(put, victim.address, local);
  bool changed = false;
  for (const char byte : local) changed = changed || byte != (put ? 'X' : 'G');
  return "{\"status\": " + quoted(status) + ", \"read_something\": " + (changed ? "true" : "false") + "}";
}

// Well-formed messages with a token that was guessed.
std::string try_replays(const Victim& victim) {
  Attacker attacker(victim);
  int sent = 0;
  const auto send = [&](MessageId id, const Bytes& header, const Bytes& body) {
    if (attacker.message(static_cast<unsigned>(id), header, body, UCP_AM_SEND_FLAG_EAGER) == "done") ++sent;
  };
  kvdirect::Hello hello;
  hello.owner_incarnation = victim.descriptor.incarnation;
  hello.segment_bytes = victim.descriptor.segment_bytes;
  hello.reader_name = "stranger";
  hello.admission = Bytes(32, std::byte{0x41});
  hello.worker_address = victim.descriptor.worker_address;
  send(MessageId::hello, {}, hello.encode());
  kvdirect::PullRequest pull;
  pull.pull = 1;
  pull.lease = victim.lease;
  pull.timeout_ms = 1000;
  pull.total_runs = 1;
  pull.runs = {{0, 0, 4096}};
  for (const std::uint64_t session : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}}) {
    const Bytes stamp = kvdirect::Stamp{session, kvdirect::random_token()}.encode();
    send(MessageId::complete, stamp, kvdirect::Complete{victim.lease, 1}.encode());
    send(MessageId::renew, stamp, kvdirect::Renew{victim.lease, 60}.encode());
    send(MessageId::pull, stamp, pull.encode());
    send(MessageId::cancel, stamp, kvdirect::Cancel{1}.encode());
    send(MessageId::probe, stamp, {});
    send(MessageId::bye, stamp, {});
    send(MessageId::verdict, stamp, kvdirect::Verdict{1, kvdirect::PullOutcome::valid, {}}.encode());
  }
  attacker.flush();
  return std::to_string(sent);
}

// Every id: noise, nothing, and a message too large to be eager.
std::string try_noise(const Victim& victim) {
  Attacker attacker(victim);
  int sent = 0;
  for (unsigned id = 0; id < 32; ++id) {
    for (const std::size_t length : {0UL, 1UL, 23UL, 24UL, 25UL, 40UL, 4096UL, 300'000UL}) {
      Bytes header(std::min<std::size_t>(length, 64));
      Bytes body(length);
      for (std::byte& byte : header) byte = static_cast<std::byte>(std::rand());
      for (std::byte& byte : body) byte = static_cast<std::byte>(std::rand());
      if (attacker.message(id, header, body, UCP_AM_SEND_FLAG_EAGER) == "done") ++sent;
    }
  }
  attacker.flush();
  return std::to_string(sent);
}

std::string try_rendezvous(const Victim& victim) {
  Attacker attacker(victim);
  const Bytes body(std::size_t{4} << 20);
  const Bytes header = kvdirect::Stamp{1, kvdirect::random_token()}.encode();
  std::string outcomes;
  for (const unsigned id : {0U, 5U, 31U}) {
    outcomes += (outcomes.empty() ? "" : ", ") + quoted(attacker.message(id, header, body, UCP_AM_SEND_FLAG_RNDV));
  }
  return "[" + outcomes + "]";
}

// A plain socket. `probe` is called with it; returns whether the victim answered anything.
bool dial(std::uint16_t port, const std::vector<std::vector<char>>& messages, std::vector<char>& answer) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval timeout{0, 500'000};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);  // bounds connect() too
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  bool answered = false;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) {
    for (const auto& message : messages) {
      if (send(fd, message.data(), message.size(), MSG_NOSIGNAL) < 0) break;
      pollfd wait{fd, POLLIN, 0};
      if (poll(&wait, 1, 300) <= 0) continue;
      answer.resize(256);
      const ssize_t got = recv(fd, answer.data(), answer.size(), 0);
      if (got <= 0) break;
      answer.resize(static_cast<std::size_t>(got));
      answered = true;
    }
  }
  close(fd);
  return answered;
}

template <typename T>
void append(std::vector<char>& bytes, T value) {
  const auto* first = reinterpret_cast<const char*>(&value);
  bytes.insert(bytes.end(), first, first + sizeof value);
}

std::string try_garbage(std::uint16_t port) {
  std::vector<char> noise(100'000);
  for (char& byte : noise) byte = static_cast<char>(std::rand());
  std::vector<char> answer;
  return dial(port, {noise}, answer) ? "true" : "false";
}

// UCX's tcp transport as its wire has it: a magic number, a connection request, then one of its own puts, which no
// feature of UCP switches off. True if the victim acknowledged the put.
std::string try_transport_put(const Victim& victim, std::uint16_t port) {
  constexpr std::uint8_t connection_message = 32;
  constexpr std::uint8_t put_request = 33;
  std::vector<char> hello;
  append(hello, std::uint64_t{0xCAFEBABE12345678U});
  append(hello, connection_message);
  append(hello, std::uint32_t{29});
  append(hello, std::uint32_t{1});
  append(hello, std::uint8_t{0});
  append(hello, std::uint64_t{0});
  append(hello, std::uint16_t{AF_INET});
  append(hello, htons(1));
  append(hello, htonl(INADDR_LOOPBACK));
  append(hello, std::uint64_t{0});
  std::vector<char> put;
  append(put, put_request);
  append(put, std::uint32_t{20});
  append(put, victim.address);
  append(put, std::uint64_t{victim.length});
  append(put, std::uint32_t{1});
  put.insert(put.end(), victim.length, 'X');
  std::vector<char> answer;
  const bool answered = dial(port, {hello, put}, answer);
  constexpr char acknowledgement = 34;
  return answered && !answer.empty() && answer.front() == acknowledgement ? "true" : "false";
}

}  // namespace

int main(int count, char** arguments) {
  const bool knock = count > 1 && std::string_view(arguments[1]) == "--knock";
  if (knock) {
    ++arguments;
    --count;
  }
  if (count < 6) {
    std::fprintf(stderr, "usage: %s [--knock] DESCRIPTOR_HEX ADDRESS LENGTH SLOT EPOCH PORT...\n", arguments[0]);
    return 2;
  }
  Victim victim;
  victim.knock = knock;
  victim.descriptor = kvdirect::Descriptor::decode(from_hex(arguments[1]));
  victim.address = std::stoull(arguments[2], nullptr, 0);
  victim.length = std::stoull(arguments[3], nullptr, 0);
  victim.lease = {static_cast<std::uint32_t>(std::stoul(arguments[4])), std::stoull(arguments[5])};
  for (int i = 6; i < count; ++i) victim.ports.push_back(static_cast<std::uint16_t>(std::stoul(arguments[i])));

  std::string ports;
  for (const std::uint16_t port : victim.ports) {
    ports += (ports.empty() ? "" : ", ") + ("{\"port\": " + std::to_string(port)) +
             ", \"answered_garbage\": " + try_garbage(port) +
             ", \"acknowledged_put\": " + try_transport_put(victim, port) + "}";
  }
  std::printf("{\"ports\": [%s],\n", ports.c_str());
  std::printf(" \"replays_sent\": %s,\n", try_replays(victim).c_str());
  std::printf(" \"noise_sent\": %s,\n", try_noise(victim).c_str());
  std::printf(" \"rendezvous\": %s,\n", try_rendezvous(victim).c_str());
  std::printf(" \"get\": %s,\n", try_access(victim, false, victim.length).c_str());
  std::printf(" \"put\": %s}\n", try_access(victim, true, victim.length).c_str());
  return 0;
}
