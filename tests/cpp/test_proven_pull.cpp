// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"
#include "proven_pull.h"

namespace kvdirect {

namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t bytes = 64;

// Takes what an owner is asked, and leaves the answer to the test.
struct OwnerSide final : Lane {
  std::shared_ptr<Pull> asked;

  [[nodiscard]] std::string_view name() const noexcept override { return "session"; }
  [[nodiscard]] LaneCapabilities capabilities() const noexcept override { return {}; }
  void prove(Clock::time_point /*deadline*/) override {}
  void submit(std::shared_ptr<Pull> pull) override { asked = std::move(pull); }
};

// Keeps a pool's only thread until it is let go.
struct Blocker final : CopyPool::Task {
  std::promise<void> go;
  std::promise<void> there;

  std::optional<Clock::time_point> step() noexcept override {
    there.set_value();
    go.get_future().wait();
    return std::nullopt;
  }
};

struct Proving {
  std::vector<std::byte> memory = std::vector<std::byte>(bytes, std::byte{7});
  std::shared_ptr<CopyPool> pool = std::make_shared<CopyPool>(1);
  std::shared_ptr<OwnerSide> session = std::make_shared<OwnerSide>();
  std::shared_ptr<Counters> counters = std::make_shared<Counters>();
  std::shared_ptr<Pull> data = std::make_shared<Pull>(job(false), nullptr);
  std::shared_ptr<Pull> whole = std::make_shared<Pull>(job(false), nullptr);

  Proving() {
    std::make_shared<ProvenPull>(data, std::make_shared<Pull>(job(true), nullptr), session, pool, counters)
        ->join(whole);
  }
  ~Proving() { pool->stop(); }

  [[nodiscard]] PullJob job(bool digest) {
    PullJob job;
    job.runs = {{0, 0, bytes, 0, 0}};
    job.deadline = Clock::now() + 60s;
    job.local = std::make_shared<const Published>(Published{{{memory.data(), memory.size(), MemoryKind::host}}, {}});
    if (digest) job.digest = std::make_shared<Digest>();
    return job;
  }
  void answer(const Digest& digest) const {
    *session->asked->job().digest = digest;
    CHECK(session->asked->succeed());
  }
  [[nodiscard]] Digest right() const {
    Hasher hasher;
    hasher.add(memory);
    return hasher.digest();
  }
  [[nodiscard]] std::optional<Errc> failure() const {
    const auto error = whole->failure();
    return error ? std::optional(error->code()) : std::nullopt;
  }
};

}  // namespace

TEST(a_digest_does_not_depend_on_how_bytes_are_cut_and_is_that_of_xxh3) {
  Hasher whole, pieces;
  const std::string_view text = "xxh3";
  whole.add(std::as_bytes(std::span(text)));
  for (const char& letter : text) pieces.add(std::as_bytes(std::span(&letter, 1)));
  CHECK(whole.digest() == pieces.digest());
  // Of no bytes, as xxHash's own tests have it (seed 0).
  CHECK(hex(Hasher().digest()) == "99aa06d3014798d86001c324468d497f");
}

TEST(a_pull_is_valid_only_with_its_owners_digest) {
  Proving right;
  CHECK(right.data->succeed());
  CHECK(!right.whole->wait_until(Clock::now() + 50ms));
  right.answer(right.right());
  CHECK(right.whole->wait_until(Clock::now() + 10s) && right.whole->quiet() && !right.failure());
  CHECK(right.whole->result().bytes == bytes && right.counters->pulls_proven == 1);

  Proving wrong;
  CHECK(wrong.data->succeed());
  Digest other = wrong.right();
  other.back() ^= std::byte{1};
  wrong.answer(other);
  CHECK(wrong.whole->wait_until(Clock::now() + 10s) && wrong.failure() == Errc::corrupt);
  CHECK(wrong.whole->wait_quiet_until(Clock::now() + 10s) && wrong.counters->pulls_disproved == 1);
}

TEST(a_pull_that_fails_is_not_asked_about) {
  Proving proving;
  CHECK(proving.data->fail(proving.data->error(Errc::lease_expired, "so")));
  CHECK(proving.whole->done() && !proving.whole->quiet() && proving.failure() == Errc::lease_expired);
  proving.data->set_quiet();
  CHECK(proving.whole->quiet() && proving.session->asked == nullptr);
}

TEST(a_proven_pull_is_quiet_only_once_nobody_reads_its_destination) {
  Proving proving;
  const auto blocker = std::make_shared<Blocker>();
  CHECK(proving.pool->submit(blocker, Clock::now()));
  blocker->there.get_future().wait();
  CHECK(proving.data->succeed());
  proving.whole->cancel();
  CHECK(proving.failure() == Errc::cancelled && !proving.whole->quiet());
  CHECK(proving.session->asked->done());
  blocker->go.set_value();
  CHECK(proving.whole->wait_quiet_until(Clock::now() + 10s));
}

TEST(a_pull_that_was_cancelled_before_it_landed_is_not_looked_at) {
  Proving proving;
  proving.whole->cancel();
  CHECK(proving.data->done() && !proving.whole->quiet());
  proving.data->set_quiet();
  CHECK(proving.whole->quiet() && proving.session->asked == nullptr);
}

}  // namespace kvdirect
