// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "check.h"
#include "message/pull_client.h"
#include "message/pull_server.h"

namespace kvdirect {

namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t bytes = 64;

// A reader's half of a pull whose owner says whatever a test has it say.
struct ReadersHalf {
  std::array<int, 2> ends{};
  Reactor reactor;
  Counters counters;
  Bytes memory = Bytes(bytes, std::byte{0});
  std::shared_ptr<Pull> pull;
  std::optional<Stream> stream;
  std::optional<PullClient> client;

  explicit ReadersHalf(bool digest = false) {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0);
    stream.emplace(reactor, Fd(ends[1]), limits::welcome, [](std::uint32_t) {});
    client.emplace(*stream, counters);
    PullJob job;
    job.runs = {{0, 0, bytes, 0, 0}};
    job.deadline = Clock::now() + 60s;
    job.local = std::make_shared<const Published>(Published{{{memory.data(), memory.size(), MemoryKind::host}}, {}});
    if (digest) job.digest = std::make_shared<Digest>();
    pull = std::make_shared<Pull>(std::move(job), std::make_shared<Counters>());
    client->begin(Stripe::cut(pull, 1).front());
  }

  void land(std::uint64_t offset, std::uint64_t count) {
    std::array<iovec, 4> parts{};
    CHECK(client->place({1, offset}, count, parts) == 1);
    client->landed({1, offset}, count);
  }
  [[nodiscard]] std::optional<Errc> failure() const {
    const auto error = pull->failure();
    return error ? std::optional(error->code()) : std::nullopt;
  }
};

// An owner's half of a session, and what its reader hears.
struct OwnersHalf final : StreamListener {
  Bytes memory = Bytes(limits::min_segment);
  std::shared_ptr<const Published> published = std::make_shared<const Published>(
      Published{{{memory.data(), memory.size(), MemoryKind::host}},
                {{{.name = "kv",
                   .axes = {{"block", 4, memory.size() / 4, {}}, {"byte", memory.size() / 4, 1, {}}},
                   .dtype = "int8"}}}});
  std::shared_ptr<LeaseTable> leases = std::make_shared<LeaseTable>(4U);
  LeaseRef lease = leases->grant_or_reserve(std::nullopt, {{1, 2}}).value();
  ServeContext context{
      leases, std::make_shared<Counters>(),           [this] { return published; }, limits::min_segment,
      true,   std::make_shared<LeaseExtents>(leases), std::make_shared<RunBudget>()};
  std::array<int, 2> ends{};
  Reactor reactor;
  std::optional<Stream> sender, receiver;
  std::optional<PullServer> server;
  std::vector<PullOutcome> verdicts;

  OwnersHalf() {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0);
    sender.emplace(reactor, Fd(ends[0]), limits::message, [](std::uint32_t) {});
    receiver.emplace(reactor, Fd(ends[1]), limits::welcome, [](std::uint32_t) {});
    server.emplace(context, *sender);
    leases->raise_watermark(lease, 1);
  }

  void ask(std::uint64_t offset, std::uint64_t length) {
    server->accept(PullRequest{1, lease, 1, 60'000, 1, 0, {{0, offset, length}}});
  }
  void hear() { receiver->receive(*this); }
  void on_message(MessageId message, BytesView body) override {
    if (message == MessageId::verdict) verdicts.push_back(Verdict::decode(body).outcome);
  }
  std::size_t place(const DataHeader& /*data*/, std::uint64_t /*bytes*/, std::span<iovec> /*parts*/) override {
    return 0;
  }
  void landed(const DataHeader& /*data*/, std::uint64_t /*bytes*/) override {}
};

}  // namespace

TEST(a_verdict_counts_only_once_every_byte_is_there) {
  ReadersHalf reading;
  reading.land(0, 40);
  reading.client->on_verdict({1, PullOutcome::valid, {}});
  CHECK(!reading.pull->done() && !reading.pull->quiet());
  reading.land(40, bytes - 40);
  CHECK(reading.pull->done() && reading.pull->quiet() && !reading.failure());
}

TEST(bytes_count_only_once_there_is_a_verdict) {
  ReadersHalf reading;
  reading.land(0, bytes);
  CHECK(!reading.pull->done() && !reading.pull->quiet());
  reading.client->on_verdict({1, PullOutcome::valid, {}});
  CHECK(reading.pull->done() && !reading.failure());
}

TEST(a_refusal_fails_a_pull_whatever_has_landed) {
  for (const auto& [outcome, code] :
       {std::pair(PullOutcome::lease_expired, Errc::lease_expired), std::pair(PullOutcome::timeout, Errc::timeout),
        std::pair(PullOutcome::refused, Errc::transport), std::pair(PullOutcome::failed, Errc::transport)}) {
    ReadersHalf reading;
    reading.land(0, bytes);
    reading.client->on_verdict({1, outcome, "so"});
    CHECK(reading.pull->done() && reading.pull->quiet() && reading.failure() == code);
  }
}

TEST(a_digest_is_an_answer_to_its_question_only) {
  ReadersHalf reading(true);
  std::array<iovec, 4> parts{};
  CHECK(reading.client->place({1, 0}, bytes, parts) == 0);
  CHECK(reading.failure() == Errc::transport && reading.counters.bad_message == 1);

  ReadersHalf unanswered(true);
  unanswered.client->on_verdict({1, PullOutcome::valid, {}});
  CHECK(unanswered.failure() == Errc::transport);

  ReadersHalf answered(true);
  const Digest digest{std::byte{5}};
  answered.client->on_proven({1, digest});
  CHECK(answered.pull->done() && !answered.failure() && *answered.pull->job().digest == digest);

  ReadersHalf ordinary;
  CHECK_THROWS(ordinary.client->on_proven({1, digest}), Errc::codec);
  ordinary.client->on_proven({7, digest});  // of a pull that ended
  CHECK(!ordinary.pull->done());
}

TEST(an_owner_looks_at_the_lease_once_more_when_all_is_sent) {
  OwnersHalf good;
  good.ask(good.memory.size() / 4, 100);
  while (good.server->poll()) {
  }
  good.hear();
  CHECK(good.verdicts == std::vector{PullOutcome::valid});

  OwnersHalf ended;
  ended.ask(ended.memory.size() / 4, 100);
  CHECK(ended.server->poll());  // what it asks for is on its way
  CHECK(ended.leases->revoke(ended.lease));
  while (ended.server->poll()) {
  }
  ended.hear();
  CHECK(ended.verdicts == std::vector{PullOutcome::lease_expired});
}

TEST(an_owner_sends_nothing_that_is_not_leased) {
  OwnersHalf owner;
  const std::uint64_t block = owner.memory.size() / 4;
  owner.ask(0, 1);
  owner.ask(3 * block - 1, 2);
  while (owner.server->poll()) {
  }
  owner.hear();
  CHECK(owner.verdicts == std::vector(2, PullOutcome::refused));
  CHECK(owner.context.counters->bytes_served == 0 && owner.context.counters->refused_runs == 2);
}

}  // namespace kvdirect
