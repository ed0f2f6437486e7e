// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"
#include "net/stream.h"
#include "net/tcp_socket.h"

namespace kvdirect {

namespace {

using namespace std::chrono_literals;

Fd accepted(int listener) { return Fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)); }

// Lands what comes in one piece of memory, in parts of seven bytes, and keeps messages.
struct Ear final : StreamListener {
  explicit Ear(std::size_t bytes) : memory(bytes) {}

  void on_message(MessageId message, BytesView body) override {
    messages.emplace_back(message, Bytes(body.begin(), body.end()));
  }
  std::size_t place(const DataHeader& data, std::uint64_t bytes, std::span<iovec> parts) override {
    if (data.pull != wanted) return 0;
    std::size_t count = 0;
    for (std::uint64_t done = 0; done < bytes && count < parts.size();) {
      const std::uint64_t length = std::min<std::uint64_t>(7, bytes - done);
      parts[count++] = {memory.data() + data.offset + done, length};
      done += length;
    }
    return count;
  }
  void landed(const DataHeader& /*data*/, std::uint64_t bytes) override { total += bytes; }

  Bytes memory;
  std::uint64_t wanted = 1;
  std::uint64_t total = 0;
  std::vector<std::pair<MessageId, Bytes>> messages;
};

// Two ends of one connection in one thread.
struct Pair {
  TcpAddress address = TcpAddress::parse("127.0.0.1", 0);
  Fd listener = listen_on(address);
  Fd dialled = connect_to(address, TcpAddress::parse("127.0.0.1", 0), Reactor::Clock::now() + 5s);
  Fd taken = accepted(listener.get());
  Reactor reactor;

  void run(const std::function<bool()>& until) {
    const auto deadline = Reactor::Clock::now() + 10s;
    while (!until()) {
      CHECK(Reactor::Clock::now() < deadline);
      if (Reactor::Clock::now() >= deadline) return;
      reactor.turn(Reactor::Clock::now() + 10ms);
    }
  }
};

struct Talk : Pair {
  Ear ear{4 << 20};
  std::optional<Errc> ended;
  Stream sender{reactor, std::move(dialled), limits::message, [this](std::uint32_t) { sender.flush(); }};
  Stream receiver{reactor, std::move(taken), 4096, [this](std::uint32_t) {
                    if (ended) return;
                    try {
                      receiver.receive(ear);
                    } catch (const Error& error) {
                      ended = error.code();
                    }
                  }};
};

Bytes pattern(std::size_t bytes) {
  Bytes result(bytes);
  for (std::size_t i = 0; i < bytes; ++i) result[i] = static_cast<std::byte>(i * 31 + i / 251);
  return result;
}

void push(int fd, const Bytes& bytes) { CHECK(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) >= 0); }

}  // namespace

TEST(streams_carry_messages_and_data_in_order) {
  Talk talk;
  Bytes source = pattern(3'000'000);
  const Bytes expected = source;
  talk.sender.send(MessageId::renew, Bytes(100, std::byte{1}));
  const auto keep = std::make_shared<int>(0);
  for (std::size_t offset = 0; offset < source.size(); offset += 500'000) {
    std::vector<iovec> parts;
    for (std::size_t at = offset; at < offset + 500'000; at += 5'000) parts.push_back({source.data() + at, 5'000});
    talk.run([&] { return talk.sender.idle(); });
    talk.sender.send_data({1, offset}, parts, keep);
    talk.sender.send(MessageId::verdict, Bytes(offset / 100'000, std::byte{2}));
  }
  talk.run([&] { return talk.ear.messages.size() == 7; });
  CHECK(talk.ear.total == source.size());
  CHECK(std::memcmp(talk.ear.memory.data(), expected.data(), expected.size()) == 0);
  CHECK(talk.ear.messages.front().first == MessageId::renew && talk.ear.messages.front().second.size() == 100);
  CHECK(talk.ear.messages.back().first == MessageId::verdict && talk.ear.messages.back().second.size() == 25);
  CHECK(keep.use_count() == 1);  // nothing holds on to what was sent
}

// What paces itself would wait for timers, on a way that has no bottleneck to find.
TEST(streams_within_a_host_are_not_paced) {
  Pair pair;
  for (Fd* end : {&pair.dialled, &pair.taken}) {
    const int fd = end->get();
    const Stream stream(pair.reactor, std::move(*end), limits::message, [](std::uint32_t) {});
    std::array<char, 16> control{};
    socklen_t length = control.size();
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, control.data(), &length) == 0);
    CHECK(std::string_view(control.data()) == "reno");
  }
}

TEST(streams_skip_data_that_nobody_wants) {
  Talk talk;
  talk.ear.wanted = 2;
  Bytes source = pattern(1'000'000);
  talk.sender.send_data({1, 0}, {{source.data(), source.size()}}, nullptr);
  talk.run([&] { return talk.sender.idle(); });
  talk.sender.send_data({2, 5}, {{source.data(), 9}}, nullptr);
  talk.run([&] { return talk.ear.total == 9; });
  CHECK(talk.ear.memory[5] == source[0] && talk.ear.memory[4] == std::byte{0});
}

TEST(streams_take_messages_in_any_pieces) {
  Pair pair;
  Ear ear(1000);
  const Fd raw = std::move(pair.dialled);
  Stream receiver(pair.reactor, std::move(pair.taken), 100'000, [&](std::uint32_t) { receiver.receive(ear); });
  Bytes bytes;
  const auto frame = [&](MessageId id, std::size_t length) {
    const auto head = static_cast<std::uint32_t>(length);
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<std::byte>(head >> (8 * i)));
    bytes.push_back(static_cast<std::byte>(id));
    bytes.insert(bytes.end(), 3, std::byte{0});
  };
  frame(MessageId::probe, 0);
  frame(MessageId::pull, 50'000);  // more than the buffer holds at first
  bytes.insert(bytes.end(), 50'000, std::byte{7});
  frame(MessageId::data, DataHeader::bytes + 3);
  const Bytes header = DataHeader{1, 40}.encode();
  bytes.insert(bytes.end(), header.begin(), header.end());
  bytes.insert(bytes.end(), 3, std::byte{9});
  frame(MessageId::bye, 1);
  bytes.push_back(std::byte{5});
  for (std::size_t at = 0, piece = 1; at < bytes.size(); at += piece, piece = piece * 3 + 1) {
    const std::size_t length = std::min(piece, bytes.size() - at);
    push(raw.get(), Bytes(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                          bytes.begin() + static_cast<std::ptrdiff_t>(at + length)));
    pair.reactor.turn(Reactor::Clock::now() + 5ms);
  }
  pair.run([&] { return ear.messages.size() == 3; });
  CHECK(ear.messages[1].second == Bytes(50'000, std::byte{7}));
  CHECK(ear.messages[2].first == MessageId::bye && ear.messages[2].second == Bytes(1, std::byte{5}));
  CHECK(ear.total == 3 && ear.memory[42] == std::byte{9} && ear.memory[43] == std::byte{0});
}

TEST(streams_end_at_nonsense) {
  for (const Bytes& bytes : {Bytes(8, std::byte{0xff}),                                      // an unknown message
                             Bytes{std::byte{1}, std::byte{0x10}, {}, {}, {}, {}, {}, {}},   // longer than 4096
                             Bytes{std::byte{16}, {}, {}, {}, std::byte{6}, {}, {}, {}}}) {  // data without any
    Pair pair;
    Ear ear(10);
    const Fd raw = std::move(pair.dialled);
    std::optional<Errc> ended;
    Stream receiver(pair.reactor, std::move(pair.taken), 4096, [&](std::uint32_t) {
      try {
        receiver.receive(ear);
      } catch (const Error& error) {
        ended = error.code();
      }
    });
    push(raw.get(), bytes);
    pair.run([&] { return ended.has_value(); });
    CHECK(ended == Errc::codec);
    CHECK(ear.messages.empty());
  }
}

TEST(streams_say_when_the_other_side_is_gone) {
  Talk talk;
  talk.sender.send(MessageId::bye, {});
  talk.sender.finish();
  talk.run([&] { return talk.ended.has_value(); });
  CHECK(talk.ended == Errc::peer_lost);
  CHECK(talk.ear.messages.size() == 1);  // what was said before still arrived
}

TEST(streams_do_not_hoard_answers_that_nobody_reads) {
  Pair pair;
  const Fd raw = std::move(pair.dialled);
  Stream sender(pair.reactor, std::move(pair.taken), 4096, [&](std::uint32_t) { sender.flush(); });
  const Bytes body(100'000);
  for (int i = 0; i < 1000; ++i) sender.send(MessageId::proof, body);
  CHECK(sender.idle());  // given up
}

TEST(streams_drain_a_bounded_part_at_a_time) {
  Pair pair;
  const Fd raw = std::move(pair.dialled);
  const Fd beside(dup(pair.taken.get()));
  Stream receiver(pair.reactor, std::move(pair.taken), 4096, [](std::uint32_t) {});
  const Bytes much(64 * 1024);
  std::size_t sent = 0;
  for (ssize_t taken = 0; taken >= 0; taken = send(raw.get(), much.data(), much.size(), MSG_NOSIGNAL | MSG_DONTWAIT)) {
    sent += static_cast<std::size_t>(taken);
  }
  CHECK(sent > 1 << 19);
  CHECK(receiver.drain());
  int left = 0;
  CHECK(ioctl(beside.get(), FIONREAD, &left) == 0 && left > 0);
}

TEST(addresses_are_numeric_and_compare_across_families) {
  CHECK(TcpAddress::parse("10.1.2.3", 4) == TcpAddress::parse("::ffff:10.1.2.3", 4));
  CHECK(TcpAddress::parse("fe80::1", 4).text() == "fe80::1");
  CHECK(TcpAddress::parse("10.1.2.3", 4).text() == "10.1.2.3");
  CHECK_THROWS(TcpAddress::parse("localhost", 4), Errc::codec);
}

TEST(devices_have_addresses) {
  CHECK(device_address("lo").text() == "127.0.0.1");
  CHECK_THROWS_WITH(device_address("no-such-device"), Errc::config, "listen=no-such-device");
}

}  // namespace kvdirect
