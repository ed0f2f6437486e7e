// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "check.h"
#include "gate.h"
#include "knock.h"

using namespace kvdirect;
using namespace std::chrono_literals;

namespace {

Bytes secret(char fill) { return Bytes(32, static_cast<std::byte>(fill)); }

TcpAddress reader() { return TcpAddress::parse("127.0.0.1", 9); }

// A gate in front of a worker that is not there, and a thread that keeps it.
struct Keeper {
  std::shared_ptr<Counters> counters = std::make_shared<Counters>();
  Gate gate{TcpAddress::parse("127.0.0.1", 1), 2, secret('a'), counters};
  std::jthread thread{[this](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      gate.pump();
      gate.tick(Gate::Clock::now());
      std::this_thread::sleep_for(1ms);
    }
  }};
};

}  // namespace

TEST(knocks_travel) {
  const KnockRequest request{secret('x'), 7, {1, 65535}};
  const Bytes frame = request.encode_frame();
  const KnockRequest same = KnockRequest::decode(BytesView(frame).subspan(4));
  CHECK(same.admission == request.admission);
  CHECK(same.reader_port == 7);
  CHECK(same.ports == request.ports);
  for (std::size_t length = 0; length + 4 < frame.size(); ++length) {
    CHECK_THROWS(KnockRequest::decode(BytesView(frame).subspan(4, length)), Errc::codec);
  }
}

TEST(the_gate_admits_who_has_the_secret) {
  const Keeper keeper;
  const Knock knock(keeper.gate.address(), secret('a'), reader(), Knock::Clock::now() + 5s);
  CHECK(keeper.counters->bad_admission == 0);
}

TEST(the_gate_closes_on_who_has_not) {
  const Keeper keeper;
  CHECK_THROWS(Knock(keeper.gate.address(), secret('b'), reader(), Knock::Clock::now() + 5s), Errc::connect);
  CHECK(keeper.counters->bad_admission == 1);
}

TEST(the_gate_closes_on_a_message_that_is_too_long) {
  const Keeper keeper;
  const GateAddress gate = keeper.gate.address();
  const Fd fd = connect_to(TcpAddress::parse(gate.host, gate.gate_port), reader(), Knock::Clock::now() + 5s);
  const Bytes length(4, std::byte{0xff});
  CHECK(send(fd.get(), length.data(), length.size(), MSG_NOSIGNAL) == 4);
  const auto deadline = Knock::Clock::now() + 5s;
  while (keeper.counters->bad_message == 0 && Knock::Clock::now() < deadline) std::this_thread::sleep_for(1ms);
  CHECK(keeper.counters->bad_message == 1);
}

TEST(addresses_are_numeric_and_compare_across_families) {
  CHECK(TcpAddress::parse("10.1.2.3", 4) == TcpAddress::parse("::ffff:10.1.2.3", 4));
  CHECK(TcpAddress::parse("fe80::1", 4).text() == "fe80::1");
  CHECK(TcpAddress::parse("10.1.2.3", 4).text() == "10.1.2.3");
  CHECK_THROWS(TcpAddress::parse("localhost", 4), Errc::codec);
}
