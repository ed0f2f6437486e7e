// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "lease.h"

using kvdirect::Errc;
using kvdirect::Error;
using kvdirect::LeaseEnd;
using kvdirect::LeaseEndReason;
using kvdirect::LeaseRef;
using kvdirect::LeaseTable;
using kvdirect::LeaseVerdict;
using Seconds = LeaseTable::Seconds;

namespace {

template <typename Call>
bool fails_with(Errc code, Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code() == code;
  }
  return false;
}

LeaseRef granted(LeaseTable& table, LeaseTable::Tables blocks = {{1, 2, 3}}) {
  const LeaseRef lease = table.reserve().value();
  table.grant(lease, blocks);
  return lease;
}

bool ended_as(LeaseTable& table, LeaseRef lease, LeaseEndReason reason) {
  const std::vector<LeaseEnd> ends = table.take_ended();
  return ends.size() == 1 && ends[0].lease == lease && ends[0].reason == reason;
}

void expire_after(LeaseTable& table, double seconds) {
  table.expire(LeaseTable::Clock::now() + std::chrono::duration_cast<LeaseTable::Clock::duration>(Seconds{seconds}));
}

TEST(reserve_until_full_and_reuse_only_after_the_end_was_taken) {
  LeaseTable table(4);
  std::set<std::uint64_t> epochs;
  std::set<std::uint32_t> slots;
  std::vector<LeaseRef> leases;
  while (const auto lease = table.reserve()) {
    CHECK(lease->epoch != 0);
    epochs.insert(lease->epoch);
    slots.insert(lease->slot);
    leases.push_back(*lease);
  }
  CHECK(slots.size() == 4 && epochs.size() == 4 && table.live() == 4);
  CHECK(table.revoke(leases[2]));
  CHECK(table.live() == 3);
  CHECK(!table.reserve());
  CHECK(ended_as(table, leases[2], LeaseEndReason::revoked));
  const auto again = table.reserve();
  CHECK(again && again->slot == leases[2].slot && again->epoch != leases[2].epoch);
  CHECK(!table.reserve());
}

TEST(words_are_stable) {
  LeaseTable table;
  const auto words = table.words();
  CHECK(words.size() == LeaseTable::max_slots);
  const LeaseRef lease = granted(table);
  table.raise_watermark(lease, 7);
  CHECK(words[lease.slot].epoch.load() == lease.epoch && words[lease.slot].watermark.load() == 7);
  const LeaseTable copy = table;  // a handle to the same table
  CHECK(copy.words().data() == words.data());
  CHECK(table.revoke(lease));
  CHECK(words[lease.slot].epoch.load() == 0);
}

TEST(exact_reservation) {
  LeaseTable table(8);
  const LeaseRef wanted{5, 99};
  table.reserve(wanted);
  CHECK(table.verdict(wanted, 0) == LeaseVerdict::valid);
  CHECK(fails_with(Errc::config, [&] { table.reserve(LeaseRef{5, 100}); }));
  CHECK(fails_with(Errc::config, [&] { table.reserve(LeaseRef{6, 0}); }));
  CHECK(fails_with(Errc::config, [&] { table.reserve(LeaseRef{8, 1}); }));
  CHECK(table.revoke(wanted));
  CHECK(fails_with(Errc::config, [&] { table.reserve(LeaseRef{5, 100}); }));  // its end was not taken
  CHECK(ended_as(table, wanted, LeaseEndReason::revoked));
  CHECK(fails_with(Errc::lease_expired, [&] { table.reserve(wanted); }));  // epochs are never reused
  table.reserve(LeaseRef{5, 100});
  std::set<std::uint32_t> slots;
  while (const auto lease = table.reserve()) slots.insert(lease->slot);
  CHECK(slots.size() == 7 && !slots.contains(5));
}

TEST(slots_taken_by_name_many_times_are_listed_once) {
  LeaseTable table(2);
  for (std::uint64_t epoch = 1; epoch <= 1000; ++epoch) {
    table.reserve(LeaseRef{1, epoch});
    CHECK(table.revoke(LeaseRef{1, epoch}));
    CHECK(table.take_ended().size() == 1);
  }
  CHECK(table.reserve());
  CHECK(table.reserve());
  CHECK(!table.reserve());
}

TEST(grant_appends_per_table) {
  LeaseTable table(4);
  const LeaseRef lease = table.reserve().value();
  CHECK(!table.blocks(lease));
  table.grant(lease, {{1, 2}});
  table.grant(lease, {{3}, {9, 8}});
  CHECK((table.blocks(lease) == LeaseTable::Tables{{1, 2, 3}, {9, 8}}));
  CHECK(table.revoke(lease));
  CHECK(!table.blocks(lease));
  CHECK(fails_with(Errc::lease_expired, [&] { table.grant(lease, {{4}}); }));
  CHECK(fails_with(Errc::lease_expired, [&] { table.raise_watermark(lease, 4); }));
  CHECK(fails_with(Errc::lease_expired, [&] { table.start_term(lease, Seconds{1}); }));
}

TEST(blocks_behind_those_known_are_told_alone) {
  LeaseTable table(4);
  const LeaseRef lease = table.reserve().value();
  table.grant(lease, {{1, 2}, {9}});
  table.grant(lease, {{3}, {}, {7}});
  const std::vector<std::size_t> known{2, 5};
  CHECK((table.blocks(lease, known) == LeaseTable::Tables{{3}, {}, {7}}));
}

TEST(verdict_follows_epoch_and_watermark) {
  LeaseTable table(4);
  const LeaseRef lease = granted(table);
  CHECK(table.verdict(lease, 0) == LeaseVerdict::valid);
  CHECK(table.verdict(lease, 1) == LeaseVerdict::not_yet);
  table.raise_watermark(lease, 16);
  table.raise_watermark(lease, 8);  // never lowers
  CHECK(table.verdict(lease, 16) == LeaseVerdict::valid);
  CHECK(table.verdict(lease, 17) == LeaseVerdict::not_yet);
  CHECK(table.verdict(LeaseRef{lease.slot, lease.epoch + 1}, 0) == LeaseVerdict::expired);
  CHECK(table.verdict(LeaseRef{lease.slot, 0}, 0) == LeaseVerdict::expired);
  CHECK(table.verdict(LeaseRef{400, lease.epoch}, 0) == LeaseVerdict::expired);
  CHECK(table.verdict(LeaseRef{3, 0}, 0) == LeaseVerdict::expired);  // a free slot's epoch is 0 too
  CHECK(table.revoke(lease));
  CHECK(table.verdict(lease, 0) == LeaseVerdict::expired);
  CHECK(!table.revoke(lease));
}

TEST(new_lease_in_an_old_slot_starts_with_watermark_zero) {
  LeaseTable table(1);
  const LeaseRef first = granted(table);
  table.raise_watermark(first, 100);
  CHECK(table.revoke(first));
  CHECK(table.take_ended().size() == 1);
  const LeaseRef second = granted(table, {{5}});
  CHECK(table.verdict(second, 1) == LeaseVerdict::not_yet);
  CHECK((table.blocks(second) == LeaseTable::Tables{{5}}));
  CHECK(!table.complete(first, 1) && !table.renew(first, Seconds{1}) && !table.revoke(first));
  CHECK(table.live() == 1);
}

TEST(complete_counts_readers_and_ends_once) {
  LeaseTable table(4);
  const LeaseRef lease = granted(table);
  table.start_term(lease, Seconds{100});
  CHECK(table.complete(lease, 3));
  CHECK(table.complete(lease, 1));  // a rank that says less does not end it under the others
  CHECK(table.take_ended().empty() && table.live() == 1);
  CHECK(table.complete(lease, 3));
  CHECK(ended_as(table, lease, LeaseEndReason::completed));
  CHECK(!table.complete(lease, 3));
  expire_after(table, 1000);
  CHECK(table.take_ended().empty());
}

TEST(early_complete_is_reported_after_start_term) {
  LeaseTable table(4);
  const LeaseRef lease = granted(table);
  CHECK(table.complete(lease, 1));
  CHECK(table.take_ended().empty());
  CHECK(table.verdict(lease, 0) == LeaseVerdict::valid);
  expire_after(table, 100000);
  CHECK(table.take_ended().empty());
  table.start_term(lease, Seconds{100});
  CHECK(ended_as(table, lease, LeaseEndReason::completed));
  CHECK(table.verdict(lease, 0) == LeaseVerdict::expired);

  const LeaseRef half = granted(table);
  CHECK(table.complete(half, 2));
  table.start_term(half, Seconds{100});
  CHECK(table.take_ended().empty());
  CHECK(table.complete(half, 2));
  CHECK(ended_as(table, half, LeaseEndReason::completed));
}

TEST(a_grant_reserves_what_it_does_not_know) {
  LeaseTable table(2);
  const LeaseRef chosen{1, 77};
  CHECK(table.grant_or_reserve(chosen, {{1, 2}}) == chosen);
  CHECK(table.grant_or_reserve(chosen, {{3}}) == chosen);
  CHECK((table.blocks(chosen) == LeaseTable::Tables{{1, 2, 3}}));
  const auto other = table.grant_or_reserve(std::nullopt, {{4}});
  CHECK(other && other->slot == 0 && (table.blocks(*other) == LeaseTable::Tables{{4}}));
  CHECK(!table.grant_or_reserve(std::nullopt, {{5}}));
  CHECK_THROWS(table.grant_or_reserve(LeaseRef{1, 78}, {{5}}), Errc::config);
  CHECK(table.revoke(chosen));
  CHECK_THROWS(table.grant_or_reserve(chosen, {{5}}), Errc::lease_expired);
}

TEST(threads_that_grant_one_unknown_lease_all_succeed) {
  LeaseTable table(64);
  for (std::uint32_t slot = 0; slot < 64; ++slot) {
    std::atomic<int> failed{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        try {
          table.grant_or_reserve(LeaseRef{slot, 5}, {{1}});
        } catch (const Error&) {
          ++failed;
        }
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK(failed == 0 && table.blocks({slot, 5})->front().size() == 4);
  }
}

TEST(terms_expire_and_renewals_extend) {
  LeaseTable table(4);
  const LeaseRef lease = granted(table);
  CHECK(table.renew(lease, Seconds{1}));  // live, and no clock runs yet
  CHECK(!table.expire(LeaseTable::Clock::now()));
  table.start_term(lease, Seconds{10});
  const auto next = table.expire(LeaseTable::Clock::now());
  CHECK(next && *next > LeaseTable::Clock::now() + std::chrono::seconds{8});
  CHECK(table.renew(lease, Seconds{50}));
  CHECK(table.renew(lease, Seconds{1}));  // never shortens
  expire_after(table, 40);
  CHECK(table.live() == 1);
  expire_after(table, 60);
  CHECK(ended_as(table, lease, LeaseEndReason::expired));
  CHECK(!table.expire(LeaseTable::Clock::now()));
}

TEST(an_overdue_lease_cannot_be_renewed) {
  LeaseTable table(4);
  const LeaseRef lease = granted(table);
  table.start_term(lease, Seconds{0});
  CHECK(!table.renew(lease, Seconds{100}));
  expire_after(table, 0.001);
  CHECK(ended_as(table, lease, LeaseEndReason::expired));
}

TEST(max_hold_counts_from_the_first_start) {
  LeaseTable table(4, Seconds{30});
  const LeaseRef lease = granted(table);
  table.start_term(lease, Seconds{10});
  CHECK(table.renew(lease, Seconds{std::numeric_limits<double>::max()}));
  table.start_term(lease, Seconds{1e6});
  expire_after(table, 29);
  CHECK(table.live() == 1);
  expire_after(table, 31);
  CHECK(ended_as(table, lease, LeaseEndReason::max_hold));
}

TEST(revoke_all_ends_every_lease_once) {
  LeaseTable table(8);
  const LeaseRef a = granted(table);
  const LeaseRef b = table.reserve().value();
  const LeaseRef c = granted(table);
  table.start_term(c, Seconds{1});
  CHECK(table.revoke(a));
  table.revoke_all();
  table.revoke_all();
  expire_after(table, 100);
  const auto ends = table.take_ended();
  CHECK(ends.size() == 3 && table.live() == 0);
  CHECK(ends[0].lease == a && ends[1].lease == b && ends[2].lease == c);
  CHECK(table.take_ended().empty());
}

TEST(bad_arguments_are_refused) {
  CHECK(fails_with(Errc::config, [] { LeaseTable table(0); }));
  CHECK(fails_with(Errc::config, [] { LeaseTable table(LeaseTable::max_slots + 1); }));
  CHECK(fails_with(Errc::config, [] { LeaseTable table(4, Seconds{0}); }));
  CHECK(fails_with(Errc::config, [] { LeaseTable table(4, Seconds{std::nan("")}); }));
  LeaseTable table(4);
  const LeaseRef lease = granted(table);
  CHECK(fails_with(Errc::config, [&] { table.start_term(lease, Seconds{-1}); }));
  CHECK(fails_with(Errc::config, [&] { table.start_term(lease, Seconds{std::nan("")}); }));
  table.start_term(lease, Seconds{10});
  CHECK(!table.renew(lease, Seconds{std::nan("")}));
  CHECK(!table.renew(lease, Seconds{-5}));
}

// The promise itself: what a reader copied while the verdict after the copy says "valid" was never overwritten. Each
// lease's block holds its epoch in every word; the owner overwrites it as soon as it has seen the end.
TEST(no_reader_accepts_an_overwritten_block) {
  constexpr int rounds = 3000;
  constexpr std::size_t words = 64;
  LeaseTable table(2);
  std::vector<std::atomic<std::uint64_t>> block(words);
  std::atomic<std::uint64_t> slot{0}, epoch{0}, accepted{0}, refused{0}, wrong{0};
  std::atomic<bool> stop{false};

  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      while (!stop.load(std::memory_order_acquire)) {
        const std::uint64_t seen = epoch.load(std::memory_order_acquire);
        const LeaseRef lease{static_cast<std::uint32_t>(slot.load(std::memory_order_acquire)), seen};
        if (seen == 0) continue;
        bool same = true;
        for (const auto& word : block) same = same && word.load(std::memory_order_relaxed) == seen;
        if (table.verdict(lease, words) != LeaseVerdict::valid) {
          refused.fetch_add(1);
          continue;
        }
        accepted.fetch_add(1);
        if (!same) wrong.fetch_add(1);
      }
    });
  }
  std::size_t ends = 0;
  for (int round = 0; round < rounds; ++round) {
    const LeaseRef lease = granted(table, {{0}});
    for (auto& word : block) word.store(lease.epoch, std::memory_order_relaxed);
    table.raise_watermark(lease, words);
    slot.store(lease.slot, std::memory_order_release);
    epoch.store(lease.epoch, std::memory_order_release);
    const std::uint64_t before = accepted.load() + refused.load();
    for (int spin = 0; spin < 2000 && accepted.load() + refused.load() < before + 2; ++spin) std::this_thread::yield();
    CHECK(table.revoke(lease));
    ends += table.take_ended().size();
    for (auto& word : block) word.store(0xDEAD, std::memory_order_relaxed);
  }
  stop.store(true, std::memory_order_release);
  for (auto& reader : readers) reader.join();
  CHECK(ends == rounds);
  CHECK(accepted.load() > 0);
  CHECK(wrong.load() == 0);
}

TEST(ends_are_reported_once_under_contention) {
  constexpr int count = 4000;
  LeaseTable table(256);
  std::atomic<std::uint64_t> taken{0}, duplicates{0};
  std::atomic<bool> stop{false};
  std::vector<LeaseRef> leases(count);
  std::atomic<int> made{0};
  // Readers complete, the owner revokes, the clock expires, all at once; every lease must end exactly once.
  std::thread completer([&] {
    for (int i = 0; i < count; ++i) {
      while (made.load(std::memory_order_acquire) <= i) std::this_thread::yield();
      table.complete(leases[static_cast<std::size_t>(i)], 1);
    }
  });
  std::thread clock([&] {
    while (!stop.load()) expire_after(table, 0.5);
  });
  std::set<std::uint64_t> seen;
  const auto drain = [&] {
    for (const LeaseEnd& end : table.take_ended()) {
      taken.fetch_add(1);
      if (!seen.insert(end.lease.epoch).second) duplicates.fetch_add(1);
    }
  };
  for (int i = 0; i < count; ++i) {
    auto lease = table.reserve();
    while (!lease) {
      drain();
      lease = table.reserve();
    }
    table.grant(*lease, {{i}});
    leases[static_cast<std::size_t>(i)] = *lease;
    made.store(i + 1, std::memory_order_release);
    try {
      table.start_term(*lease, Seconds{0.25});
    } catch (const Error&) {
      CHECK(false);  // nothing but this thread may end it before the clock starts
    }
    if (i % 3 == 0) table.revoke(*lease);
  }
  completer.join();
  table.revoke_all();
  stop.store(true);
  clock.join();
  drain();
  CHECK(taken.load() == count && duplicates.load() == 0 && table.live() == 0);
}

}  // namespace
