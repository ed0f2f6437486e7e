// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <functional>
#include <future>
#include <memory>

#include "base/codec.h"
#include "net/event_thread.h"
#include "session/owner.h"
#include "target.h"

namespace kvdirect {

namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t block = 4096;
constexpr std::uint64_t blocks = 16;
constexpr std::int64_t first_leased = 5, last_leased = 8;
constexpr std::byte leased{0x11}, secret{0xee};
constexpr std::uint64_t positions = 4;

// An owner that outlives all inputs, on a thread of its own. Only some blocks of its memory are ever leased.
struct Owner {
  Owner() {
    std::ranges::fill(std::span(memory).subspan(first_leased * block, (last_leased - first_leased + 1) * block),
                      leased);
  }
  ~Owner() { thread.stop(); }

  // A lease that no input has ended yet, of all those blocks.
  LeaseRef lease() {
    leases->revoke_all();
    static_cast<void>(leases->take_ended());
    const LeaseRef fresh{0, ++epochs};
    leases->reserve(fresh);
    leases->grant(fresh, {{first_leased, first_leased + 1, last_leased - 1, last_leased}});
    leases->raise_watermark(fresh, positions / 2);
    return fresh;
  }
  // Runs it on the owner's thread, and waits for that.
  void run(const std::function<void()>& command) {
    std::promise<void> done;
    HOLDS(thread.post([&] {
      command();
      done.set_value();
    }));
    HOLDS(done.get_future().wait_for(20s) == std::future_status::ready);
  }

  Bytes memory = Bytes(blocks * block, secret);
  std::shared_ptr<const Published> published = std::make_shared<const Published>(
      Published{{{memory.data(), memory.size(), MemoryKind::host}},
                {{{.name = "kv", .axes = {{"block", blocks, block, {}}, {"byte", block, 1, {}}}, .dtype = "int8"}}}});
  std::uint64_t epochs = 0;
  std::shared_ptr<LeaseTable> leases = std::make_shared<LeaseTable>(4U);
  OwnerSessions sessions{{.incarnation = 7,
                          .segment_bytes = limits::min_segment,
                          .extents = std::make_shared<LeaseExtents>(leases),
                          .host = [] { return std::nullopt; },
                          .rdma = [] { return std::nullopt; },
                          .shm = [] { return std::nullopt; },
                          .cuda = [] { return std::nullopt; },
                          .published = [this] { return published; }},
                         leases,
                         std::make_shared<Counters>()};
  EventThread thread{{.name = "fuzz", .thread = "kvd-fuzz"},
                     {.start = [this](EventThread& its_thread) { sessions.start(its_thread, "lo"); },
                      .poll = [this] { return sessions.poll(); },
                      .tick = [this](EventThread::Clock::time_point now) { return sessions.tick(now); },
                      .stop = [this] { sessions.stop(); },
                      .lingering = [] { return false; }}};
};

// A reader that says what an input tells it to, to a session that it was let into.
class Talker {
 public:
  Talker(Owner& owner, LeaseRef lease) : _owner(owner), _lease(lease) {
    std::array<int, 2> ends{};
    HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0);
    _fd = Fd(ends[0]);
    const auto theirs = std::make_shared<Fd>(ends[1]);
    owner.run([&] { owner.sessions.adopt(std::move(*theirs), "fuzz", Token{}, Welcome{}.encode(), [] {}); });
  }

  void step(fuzz::Input& input) {
    const auto kind = input.below(10);
    const auto number = input.below(4);
    switch (kind) {
      case 0:
        ++_pulls;
        say_raw(input.take(1 + input.below(64)));
        break;
      case 1: {
        ++_pulls;  // perhaps
        const auto id = static_cast<MessageId>(input.below(17));
        say(id, input.take(input.below(80)));
        break;
      }
      case 2: say(MessageId::cancel, Cancel{number}.encode()); break;
      case 3: say(MessageId::renew, Renew{lease(input), 0.001 * static_cast<double>(1 + number)}.encode()); break;
      case 4: say(MessageId::complete, Complete{lease(input), static_cast<std::uint32_t>(1 + number)}.encode()); break;
      case 5: say(MessageId::probe, {}); break;
      case 6:
        if (_owner.leases->verdict(_lease, 0) == LeaseVerdict::valid) raise();
        break;
      case 7: static_cast<void>(number == 0 && _owner.leases->revoke(_lease)); break;
      default: pull(input, number); break;
    }
    listen();
  }

  // Says nothing more, and hears the end within seconds.
  void part() {
    _owner.run([] {});
    listen();
    shutdown(_fd.get(), SHUT_WR);
    pollfd waits{_fd.get(), POLLIN, 0};
    const auto deadline = std::chrono::steady_clock::now() + 20s;
    while (!_ended) {
      HOLDS(std::chrono::steady_clock::now() < deadline);
      poll(&waits, 1, 100);
      listen();
    }
    check();
  }

 private:
  LeaseRef lease(fuzz::Input& input) {
    const auto other = input.below(8);
    return other == 0 ? LeaseRef{static_cast<std::uint32_t>(input.below(6)), input.number(1)} : _lease;
  }

  void raise() {
    try {
      _owner.leases->raise_watermark(_lease, positions);
    } catch (const Error& error) {
      HOLDS(error.code() == Errc::lease_expired);
    }
  }

  void pull(fuzz::Input& input, std::uint64_t number) {
    PullRequest request;
    request.pull = number;
    request.lease = lease(input);
    request.watermark = input.below(positions + 2);
    request.timeout_ms = static_cast<std::uint32_t>(input.below(3));
    request.runs.resize(input.below(6));
    for (WireRun& run : request.runs) {
      const auto kind = input.below(16);
      const bool inside = kind > 1;
      run.region = kind == 0 ? static_cast<std::uint32_t>(input.number(4)) : 0;
      run.offset = inside ? (first_leased + input.below(4)) * block + input.below(block) : input.number(8);
      run.length = inside ? 1 + input.below(2 * block) : input.number(8);
    }
    request.total_runs = static_cast<std::uint32_t>(request.runs.size() + (input.below(8) == 0 ? 1 : 0));
    ++_pulls;
    say(number == 3 ? MessageId::prove : MessageId::pull, request.encode());
  }

  void say(MessageId id, BytesView body) {
    Writer writer;
    writer.u32(static_cast<std::uint32_t>(body.size()));
    writer.u8(static_cast<std::uint8_t>(id));
    writer.raw(std::array<std::byte, 3>{});
    writer.raw(body);
    say_raw(writer.bytes());
  }

  // It may have hung up on us.
  void say_raw(BytesView bytes) {
    static_cast<void>(send(_fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  }

  void listen() {
    std::array<std::byte, 16384> buffer;
    while (!_ended) {
      const ssize_t got = recv(_fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
      _ended = got <= 0;
      if (got > 0) _heard.insert(_heard.end(), buffer.begin(), buffer.begin() + got);
    }
  }

  // What was heard is well said, and has nothing in it that is not leased.
  void check() {
    fuzz::Input heard(_heard);
    std::size_t verdicts = 0;
    while (!heard.empty()) {
      const BytesView head = heard.take(8);
      if (head.size() < 8) return;  // cut off in the middle
      Reader reader(head);
      const std::size_t length = reader.u32("length");
      const auto id = static_cast<MessageId>(reader.u8("id"));
      BytesView body = heard.take(length);
      if (body.size() < length && id != MessageId::data) return;
      switch (id) {
        case MessageId::welcome: Welcome::decode(body); break;
        case MessageId::proof: Proof::decode(body); break;
        case MessageId::verdict: verdicts += Verdict::decode(body).pull < 4 ? 1 : 0; break;
        case MessageId::bye: break;
        case MessageId::digest: verdicts += Proven::decode(body).pull < 4 ? 1 : 0; break;
        case MessageId::data:
          if (body.size() < DataHeader::bytes) return;
          HOLDS(std::ranges::count(body.subspan(DataHeader::bytes), secret) == 0);
          break;
        default: HOLDS(id == MessageId::bye);
      }
    }
    HOLDS(verdicts <= _pulls);
  }

  Owner& _owner;
  LeaseRef _lease;
  Fd _fd;
  Bytes _heard;
  bool _ended = false;
  std::size_t _pulls = 0;
};

}  // namespace

// A whole owner, whose reader says and does what the input tells it to.
FUZZ_TARGET(sessions) {
  static Owner owner;
  fuzz::Input steps(input);
  Talker reader(owner, owner.lease());
  for (int step = 0; step < 64 && !steps.empty(); ++step) reader.step(steps);
  reader.part();
}

// A stranger: whatever it says, it is hung up on when it has said it.
FUZZ_TARGET(strangers) {
  static Owner owner;
  socklen_t length = 0;
  const sockaddr_storage address = owner.sessions.address().socket_address(length);
  const Fd fd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int connected = -1;
  do {  // libFuzzer's clock interrupts it
    connected = connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), length);
  } while (connected != 0 && (errno == EINTR || errno == EALREADY));
  HOLDS(connected == 0 || errno == EISCONN);
  // Both ends forget it at once: there are only so many ports.
  const linger at_once{1, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  const BytesView bytes = input.first(std::min<std::size_t>(input.size(), 32 << 10));
  static_cast<void>(send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
  shutdown(fd.get(), SHUT_WR);
  const timeval patience{20, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  std::array<std::byte, 4096> buffer;
  ssize_t got = 0;
  while ((got = recv(fd.get(), buffer.data(), buffer.size(), 0)) > 0) {
  }
  HOLDS(got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK));
}

}  // namespace kvdirect
