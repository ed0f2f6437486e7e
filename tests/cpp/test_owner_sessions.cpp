// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <semaphore>
#include <string>
#include <vector>

#include "check.h"
#include "net/event_thread.h"
#include "net/tcp_socket.h"
#include "session/owner.h"
#include "wire/admission.h"

namespace kvdirect {

namespace {

using namespace std::chrono_literals;
using Clock = Reactor::Clock;

const Bytes secret(32, std::byte{5});
constexpr std::uint64_t segment = limits::min_segment;
constexpr std::uint64_t block = 40 * segment;  // a lease's only one

// An owner whose thread sends no more often than it is allowed to.
struct Owner {
  Bytes memory = Bytes(block);
  std::shared_ptr<const Published> published = std::make_shared<const Published>(
      Published{{{memory.data(), memory.size(), MemoryKind::host}},
                {{{.name = "kv", .axes = {{"block", 1, block, {}}, {"byte", block, 1, {}}}, .dtype = "int8"}}}});
  std::shared_ptr<LeaseTable> leases = std::make_shared<LeaseTable>(4U);
  std::shared_ptr<Counters> counters = std::make_shared<Counters>();
  std::shared_ptr<RunBudget> budget = std::make_shared<RunBudget>(limits::runs_per_message);
  OwnerSessions sessions{{.incarnation = 7,
                          .admission = secret,
                          .segment_bytes = segment,
                          .extents = std::make_shared<LeaseExtents>(leases),
                          .budget = budget,
                          .host = [] { return std::nullopt; },
                          .rdma = [] { return std::nullopt; },
                          .shm = [] { return std::nullopt; },
                          .cuda = [] { return std::nullopt; },
                          .published = [this] { return published; }},
                         leases,
                         counters};
  std::counting_semaphore<> allowed{0};
  std::vector<std::uint64_t> sent;  // bytes, by each turn that sent some
  EventThread thread{{.name = "test", .thread = "kvd-test"},
                     {.start = [this](EventThread& its_thread) { sessions.start(its_thread, "lo"); },
                      .poll = [this] { return poll(); },
                      .tick = [this](Clock::time_point now) { return sessions.tick(now); },
                      .stop = [this] { sessions.stop(); },
                      .lingering = [] { return false; }}};

  bool poll() {
    if (!allowed.try_acquire()) return false;
    const std::uint64_t before = counters->bytes_served;
    const bool busy = sessions.poll();
    if (counters->bytes_served > before) {
      sent.push_back(counters->bytes_served - before);
    } else {
      allowed.release();
    }
    return busy;
  }
};

struct Reader final : StreamListener {
  Reader(Reactor& reactor, const TcpAddress& owner)
      : stream(reactor, connect_to(owner, TcpAddress::parse("127.0.0.1", 0), Clock::now() + 5s), limits::welcome,
               [this](std::uint32_t) {
                 stream.flush();
                 stream.receive(*this);
               }) {
    Hello opening;
    opening.owner_incarnation = 7;
    hello = opening.encode();
    stream.send(MessageId::hello, hello);
  }

  // What follows is answered only when the owner has the pull.
  void pull(LeaseRef lease) {
    stream.send(MessageId::pull, PullRequest{1, lease, 1, 60'000, 1, 0, {{0, 0, block}}}.encode());
    stream.send(MessageId::probe, {});
  }

  // One that waits, of so many messages' runs.
  void wait_for(LeaseRef lease, std::uint32_t messages) {
    const std::vector<WireRun> runs(limits::runs_per_message, WireRun{0, 0, 1});
    const auto size = static_cast<std::uint32_t>(runs.size());
    for (std::uint32_t i = 0; i < messages; ++i) {
      stream.send(MessageId::pull, PullRequest{1, lease, 1, 60'000, messages * size, i * size, runs}.encode());
    }
    stream.send(MessageId::probe, {});
  }

  void on_message(MessageId message, BytesView body) override {
    if (message == MessageId::challenge) {
      stream.send(MessageId::answer, Answer{reader_proof(secret, hello, Challenge::decode(body).nonce)}.encode());
    }
    if (message == MessageId::welcome) welcomed = true;
    if (message == MessageId::proof) asked = true;
    if (message != MessageId::verdict) return;
    const Verdict verdict = Verdict::decode(body);
    valid = verdict.outcome == PullOutcome::valid;
    reason = verdict.reason;
  }
  std::size_t place(const DataHeader& data, std::uint64_t bytes, std::span<iovec> parts) override {
    parts[0] = {memory.data() + data.offset, bytes};
    return 1;
  }
  void landed(const DataHeader& /*data*/, std::uint64_t bytes) override { received += bytes; }

  Bytes hello;
  Bytes memory = Bytes(block);
  std::uint64_t received = 0;
  bool welcomed = false, asked = false, valid = false;
  std::string reason;  // of the last verdict
  Stream stream;
};

}  // namespace

TEST(readers_that_pull_at_once_are_served_in_turn_and_a_bounded_part_each_time) {
  Owner owner;
  const LeaseRef lease = owner.leases->grant_or_reserve(std::nullopt, {{0}}).value();
  Reactor reactor;
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 48; ++i) readers.push_back(std::make_unique<Reader>(reactor, owner.sessions.address()));
  const auto run_until = [&](const std::function<bool(const Reader&)>& is_so) {
    const auto deadline = Clock::now() + 20s;
    const auto all = [&] { return std::ranges::all_of(readers, [&](const auto& reader) { return is_so(*reader); }); };
    while (!all() && Clock::now() < deadline) reactor.turn(Clock::now() + 10ms);
    CHECK(all());
  };
  run_until([](const Reader& reader) { return reader.welcomed; });
  for (const auto& reader : readers) reader->pull(lease);
  run_until([](const Reader& reader) { return reader.asked; });
  // Six turns of 16 messages: two for each of 48 readers.
  owner.allowed.release(6);
  owner.leases->raise_watermark(lease, 1);
  run_until([](const Reader& reader) { return reader.received >= 2 * segment; });
  CHECK(std::ranges::all_of(readers, [](const auto& reader) { return reader->received == 2 * segment; }));
  owner.allowed.release(1'000'000);
  owner.thread.post([] {});
  run_until([](const Reader& reader) { return reader.valid && reader.received == block; });
  owner.thread.stop();
  CHECK(std::ranges::max(owner.sent) <= 16 * segment);
}

TEST(readers_that_ask_for_much_share_what_an_owner_keeps_and_ordinary_pulls_are_not_refused_for_them) {
  Owner owner;
  owner.allowed.release(1'000'000);
  const LeaseRef lease = owner.leases->grant_or_reserve(std::nullopt, {{0}}).value();
  Reactor reactor;
  const auto run_until = [&](const std::function<bool()>& is_so) {
    const auto deadline = Clock::now() + 20s;
    while (!is_so() && Clock::now() < deadline) reactor.turn(Clock::now() + 10ms);
    CHECK(is_so());
  };
  const auto make = [&] {
    auto reader = std::make_unique<Reader>(reactor, owner.sessions.address());
    run_until([&] { return reader->welcomed; });
    return reader;
  };
  const auto refused = [&](std::uint32_t messages) {
    const auto reader = make();
    reader->wait_for(lease, messages);
    run_until([&] { return reader->asked; });
    return reader->reason.find("for all readers is full") != std::string::npos;
  };
  constexpr auto own = static_cast<std::uint32_t>(RunBudget::own / limits::runs_per_message);
  auto first = make();
  first->wait_for(lease, own + 1);  // all that there is beyond each reader's own
  run_until([&] { return first->asked; });
  CHECK(first->reason.empty());
  CHECK(refused(own + 1));
  CHECK(!refused(own));
  first.reset();  // what it held is there for others
  const auto deadline = Clock::now() + 20s;
  while (refused(own + 1)) CHECK(Clock::now() < deadline);
  owner.thread.stop();
}

}  // namespace kvdirect
