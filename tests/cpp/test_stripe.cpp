// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <array>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "check.h"
#include "message/receive_cursor.h"
#include "message/stripe.h"
#include "wire/messages.h"

namespace kvdirect {

namespace {

std::shared_ptr<Pull> pull_of(const std::vector<std::uint64_t>& lengths, std::shared_ptr<Counters> counters) {
  PullJob job;
  std::uint64_t at = 0;
  for (const std::uint64_t length : lengths) {
    job.runs.push_back({.remote_offset = 5000 + 2 * at, .local_offset = 3 * at, .length = length});
    at += length;
  }
  return std::make_shared<Pull>(std::move(job), std::move(counters));
}

// Every byte of the pull, as remote and local offset, in the order in which the stripes carry them.
std::vector<std::pair<std::uint64_t, std::uint64_t>> carried(const std::vector<Stripe>& stripes) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> bytes;
  for (const Stripe& stripe : stripes) {
    const std::size_t before = bytes.size();
    PieceCursor runs = stripe.asking();
    for (std::size_t i = 0; i < stripe.run_count(); ++i) {
      const Run run = runs.take();
      CHECK(run.length > 0);
      for (std::uint64_t at = 0; at < run.length; ++at)
        bytes.emplace_back(run.remote_offset + at, run.local_offset + at);
    }
    CHECK(bytes.size() - before == stripe.bytes());
  }
  return bytes;
}

// Blocks whose rows lie token by token at the owner and head by head here, behind each other in neither.
struct Permuted {
  static constexpr std::uint64_t tokens = 5, heads = 3, row = 8, block = tokens * heads * row, apart = block + 24;
  std::vector<std::byte> theirs = std::vector<std::byte>(8 * apart), ours = std::vector<std::byte>(8 * apart);
  std::vector<std::byte> expected = ours;
  std::shared_ptr<Pull> pull;

  Permuted() {
    std::mt19937 random(1);
    for (std::byte& byte : theirs) byte = static_cast<std::byte>(random() % 255 + 1);
    std::vector<Run> pattern;
    for (std::uint64_t token = 0; token < tokens; ++token) {
      for (std::uint64_t head = 0; head < heads; ++head) {
        pattern.push_back({(token * heads + head) * row, (head * tokens + token) * row, row, 0, 0});
      }
    }
    const std::vector<RunGroup::Base> bases{{6 * apart, 0}, {apart, 5 * apart}, {2 * apart, 2 * apart}, {0, apart}};
    for (const RunGroup::Base& base : bases) {
      for (const Run& run : pattern) {
        std::copy_n(&theirs[base.remote + run.remote_offset], run.length, &expected[base.local + run.local_offset]);
      }
    }
    PullJob job;
    job.groups = {{pattern, bases}};
    job.permutes = true;
    job.local = std::make_shared<const Published>(Published{{{ours.data(), ours.size(), MemoryKind::host}}, {}});
    pull = std::make_shared<Pull>(std::move(job), std::make_shared<Counters>());
  }

  // What the owner sends for it.
  [[nodiscard]] std::vector<std::byte> stream(const Stripe& stripe) const {
    std::vector<std::byte> bytes;
    PieceCursor asked = stripe.asking();
    for (std::size_t i = 0; i < stripe.run_count(); ++i) {
      const Run run = asked.take();
      bytes.insert(bytes.end(), &theirs[run.remote_offset], &theirs[run.remote_offset] + run.length);
    }
    CHECK(asked.done());
    return bytes;
  }
};

}  // namespace

TEST(a_pull_that_permutes_is_asked_for_in_stretches) {
  const Permuted scene;
  CHECK(scene.pull->job().run_count == 4 * Permuted::tokens * Permuted::heads);
  CHECK(Stripe::cut(scene.pull, 1).front().run_count() == 4);
  for (unsigned stripes = 2; stripes <= 6; ++stripes) {
    std::size_t asked = 0;
    for (const Stripe& stripe : Stripe::cut(scene.pull, stripes)) asked += stripe.run_count();
    CHECK(asked >= 4 && asked < 4 + stripes);
  }
  // Nothing follows the end of a region.
  PullJob job;
  job.runs = {{0, 0, 8, 0, 0}, {8, 100, 8, 1, 0}};
  job.permutes = true;
  const auto pull = std::make_shared<Pull>(std::move(job), std::make_shared<Counters>());
  CHECK(Stripe::cut(pull, 1).front().run_count() == 2);
}

TEST(what_arrives_together_is_put_in_place) {
  for (unsigned stripes = 1; stripes <= 6; ++stripes) {
    Permuted scene;
    std::mt19937 random(stripes);
    for (const Stripe& stripe : Stripe::cut(scene.pull, stripes)) {
      ReceiveCursor cursor(stripe);
      CHECK(cursor.permutes());
      const auto sent = scene.stream(stripe);
      CHECK(sent.size() == stripe.bytes());
      for (std::size_t at = 0; at < sent.size();) {
        // Somebody else's afterwards: the next bytes arrive in the same place.
        std::vector<std::byte> arrived(sent.begin() + static_cast<std::ptrdiff_t>(at), sent.end());
        arrived.resize(std::min<std::size_t>(arrived.size(), random() % 70 + 1));
        CHECK(cursor.expects(at, arrived.size()));
        cursor.put(arrived.data(), arrived.size());
        at += arrived.size();
      }
      CHECK(cursor.complete());
    }
    CHECK(scene.ours == scene.expected);
  }
}

TEST(an_owner_is_not_asked_for_more_runs_than_it_takes) {
  const auto pull_of_stretches = [](std::size_t count) {
    PullJob job;
    job.groups = {{std::vector<Run>{{0, 0, 8, 0, 0}, {8, 16, 8, 0, 0}}, std::vector<RunGroup::Base>(count)}};
    job.permutes = true;
    return std::make_shared<Pull>(std::move(job), std::make_shared<Counters>());
  };
  CHECK(Stripe::cut(pull_of_stretches(limits::runs_per_pull), 1).front().run_count() == limits::runs_per_pull);
  CHECK_THROWS_WITH(Stripe::cut(pull_of_stretches(limits::runs_per_pull + 1), 2), Errc::plan, "fewer positions");
}

TEST(portions_carry_every_byte_once_in_order) {
  const std::vector<std::vector<std::uint64_t>> lists{
      {1},      {100},    {1, 1, 1},   {7, 1, 300, 13, 2},   {64, 64, 64, 64},
      {1, 999}, {999, 1}, {50, 50, 1}, {3, 3, 3, 3, 3, 3, 3}};
  for (const auto& lengths : lists) {
    const auto pull = pull_of(lengths, std::make_shared<Counters>());
    const auto whole = carried(Stripe::cut(pull, 1));
    CHECK(whole.size() == pull->job().bytes);
    for (unsigned stripes = 2; stripes <= 8; ++stripes) {
      const auto cut = Stripe::cut(pull, stripes);
      CHECK(cut.size() == std::min<std::uint64_t>(stripes, pull->job().bytes));
      CHECK(carried(cut) == whole);
      CHECK(cut.back().bytes() - cut.front().bytes() <= 1);  // about equal
    }
  }
}

TEST(portions_land_where_the_whole_pull_would) {
  std::vector<std::byte> memory(1000);
  PullJob job;
  job.runs = {{0, 10, 7, 0, 0}, {100, 40, 20, 0, 0}, {200, 90, 4, 0, 0}};
  job.local = std::make_shared<const Published>(Published{{{memory.data(), memory.size(), MemoryKind::host}}, {}});
  const auto pull = std::make_shared<Pull>(std::move(job), std::make_shared<Counters>());
  const auto stripes = Stripe::cut(pull, 3);  // 10, 10 and 11 of 31 bytes
  ReceiveCursor cursor(stripes[1]);
  std::array<iovec, 4> parts{};
  CHECK(cursor.expects(0, 10) && !cursor.expects(0, 11));
  CHECK(cursor.place(10, parts) == 1 && parts[0].iov_base == &memory[43] && parts[0].iov_len == 10);
  cursor.advance(4);
  CHECK(cursor.place(6, parts) == 1 && parts[0].iov_base == &memory[47] && parts[0].iov_len == 6);
  cursor.advance(6);
  CHECK(cursor.complete());
  ReceiveCursor last(stripes[2]);
  CHECK(last.place(11, parts) == 2 && parts[0].iov_base == &memory[53] && parts[0].iov_len == 7);
  CHECK(parts[1].iov_base == &memory[90] && parts[1].iov_len == 4);
}

TEST(a_divided_pull_succeeds_with_its_last_share_and_counts_once) {
  const auto counters = std::make_shared<Counters>();
  const auto pull = pull_of({100}, counters);
  const auto stripes = Stripe::cut(pull, 3);
  stripes[0].succeed();
  stripes[2].succeed();
  CHECK(!pull->done());
  stripes[1].succeed();
  CHECK(pull->done() && pull->quiet() && pull->result().bytes == 100);
  CHECK(counters->pulls_ok == 1 && counters->bytes_pulled == 100);
}

TEST(a_pull_whose_portions_are_dropped_fails_and_is_quiet_when_the_last_is_gone) {
  const auto counters = std::make_shared<Counters>();
  const auto pull = pull_of({100}, counters);
  auto stripes = Stripe::cut(pull, 3);
  stripes[1].succeed();
  stripes.erase(stripes.begin());  // an error on its way took it
  CHECK(!pull->quiet());           // the others can still land
  stripes.clear();
  CHECK(pull->done() && pull->quiet());
  CHECK_THROWS(static_cast<void>(pull->result()), Errc::transport);
  const auto ended = pull_of({100}, counters);
  Stripe::cut(ended, 1).front().succeed();
  CHECK(ended->result().bytes == 100);
}

TEST(a_divided_pull_fails_with_its_first_share_and_is_quiet_with_its_last) {
  const auto counters = std::make_shared<Counters>();
  const auto pull = pull_of({100}, counters);
  const auto stripes = Stripe::cut(pull, 2);
  int told = 0;
  pull->on_abort([&told] { ++told; });
  stripes[0].fail(pull->error(Errc::peer_lost, "was lost"));
  stripes[0].set_quiet();
  CHECK(pull->done() && !pull->quiet() && told == 1);  // the other stripe can still land
  stripes[1].succeed();
  CHECK_THROWS(static_cast<void>(pull->result()), Errc::peer_lost);
  stripes[1].set_quiet();
  CHECK(pull->quiet());
  CHECK(counters->pulls_failed == 1 && counters->pulls_ok == 0);
}

}  // namespace kvdirect
