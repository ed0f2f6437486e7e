// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <array>
#include <memory>
#include <vector>

#include "check.h"
#include "message/receive_cursor.h"
#include "message/stripe.h"

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
    RunCursor<Run> runs = stripe.runs();
    std::uint64_t left = stripe.bytes();
    for (std::size_t i = 0; i < stripe.run_count(); ++i) {
      const Run run = runs.take(left);
      left -= run.length;
      CHECK(run.length > 0);
      for (std::uint64_t at = 0; at < run.length; ++at)
        bytes.emplace_back(run.remote_offset + at, run.local_offset + at);
    }
    CHECK(bytes.size() - before == stripe.bytes());
  }
  return bytes;
}

}  // namespace

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
  const auto pull = std::make_shared<Pull>(job, std::make_shared<Counters>());
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
