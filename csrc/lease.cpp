// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lease.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "base/seconds.h"

namespace kvdirect {

namespace {

using Clock = LeaseTable::Clock;
using Seconds = LeaseTable::Seconds;
using Tables = LeaseTable::Tables;
using Ranges = LeaseTable::Ranges;

std::string text(LeaseRef lease) {
  return "slot " + std::to_string(lease.slot) + " epoch " + std::to_string(lease.epoch);
}

[[noreturn]] void throw_ended(const char* operation, LeaseRef lease) {
  throw Error(Errc::lease_expired, "the lease " + text(lease) + " is not live in this table",
              {.operation = operation, .hint = "It ended, or was never reserved here; serve the request without it"});
}

bool usable(Seconds term) { return std::isfinite(term.count()) && term.count() >= 0; }

enum class State : std::uint8_t { free, reserved, granted, ended };

struct Entry {
  State state = State::free;
  bool listed = true;       // is in the list of candidates for reserve()
  std::uint64_t epoch = 0;  // outlives the lease: the last one used here
  std::uint32_t readers = 0;
  std::uint32_t completes = 0;
  std::optional<Clock::time_point> hold_until;  // set by the first start_term
  Clock::time_point deadline{};                 // meaningful when hold_until is set
  Tables blocks;
  Ranges ranges;
};

void check(const Ranges& ranges) {
  for (const auto& table : ranges) {
    const auto bad =
        std::ranges::find_if(table, [](const LeaseTable::Range& range) { return range.begin >= range.end; });
    if (bad == table.end()) continue;
    throw Error(Errc::config,
                "blocks from " + std::to_string(bad->begin) + " up to " + std::to_string(bad->end) + " are no range",
                {.operation = "grant"});
  }
}

template <class OfTables>
void append(OfTables& known, const OfTables& more) {
  if (known.size() < more.size()) known.resize(more.size());
  for (std::size_t i = 0; i < more.size(); ++i) known[i].insert(known[i].end(), more[i].begin(), more[i].end());
}

// What was appended behind the first known[i] of table i.
template <class OfTables>
OfTables behind(const OfTables& all, std::span<const std::size_t> known) {
  OfTables added;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::size_t skipped = i < known.size() ? std::min(known[i], all[i].size()) : 0;
    added.emplace_back(all[i].begin() + static_cast<std::ptrdiff_t>(skipped), all[i].end());
  }
  return added;
}

}  // namespace

struct LeaseTable::Impl {
  Impl(std::shared_ptr<LeaseWord[]> its_words, std::uint32_t slots, Seconds hold)
      : words(std::move(its_words)), entries(slots), max_hold(hold) {
    for (std::uint32_t slot = 0; slot < slots; ++slot) candidates.push_back(slot);
  }

  mutable std::mutex mutex;
  std::shared_ptr<LeaseWord[]> words;
  std::vector<Entry> entries;
  Seconds max_hold;
  std::deque<std::uint32_t> candidates;  // oldest first, so that a slot rests as long as possible
  std::set<std::pair<Clock::time_point, std::uint32_t>> deadlines;
  std::vector<LeaseEnd> ended;
  std::size_t live = 0;
  std::vector<std::function<void()>> listeners;

  void tell() const {
    for (const auto& changed : listeners) changed();
  }

  // What ends before it begins was refused.
  void name(LeaseRef lease, const Tables& blocks, const Ranges& ranges) {
    Entry& entry = *find(lease);
    append(entry.blocks, blocks);
    append(entry.ranges, ranges);
    entry.state = State::granted;
  }

  [[nodiscard]] const Entry* find_granted(LeaseRef lease) noexcept {
    const Entry* entry = find(lease);
    return entry != nullptr && entry->state == State::granted ? entry : nullptr;
  }

  [[nodiscard]] Entry* find(LeaseRef lease) noexcept {
    if (lease.slot >= entries.size() || lease.epoch == 0) return nullptr;
    Entry& entry = entries[lease.slot];
    const bool is_live = entry.state == State::reserved || entry.state == State::granted;
    return is_live && entry.epoch == lease.epoch ? &entry : nullptr;
  }

  // For the table's reserve().
  std::optional<LeaseRef> take_free() {
    while (!candidates.empty()) {
      const std::uint32_t slot = candidates.front();
      Entry& entry = entries[slot];
      if (entry.state != State::free) {  // taken by name meanwhile; listed again when it is free
        candidates.pop_front();
        entry.listed = false;
        continue;
      }
      std::uint64_t epoch = random_u64();
      while (epoch == entry.epoch) epoch = random_u64();
      candidates.pop_front();
      entry.listed = false;
      occupy({slot, epoch});
      return LeaseRef{slot, epoch};
    }
    return std::nullopt;
  }

  void take(LeaseRef lease) {
    const auto refuse = [&](const std::string& why) {
      throw Error(Errc::config, text(lease) + ": " + why, {.operation = "reserve lease"});
    };
    if (lease.slot >= entries.size()) {
      refuse("the table has " + std::to_string(entries.size()) + " slots; all ranks must be given the same number");
    }
    if (lease.epoch == 0) refuse("epoch 0 means that nothing is promised");
    const Entry& entry = entries[lease.slot];
    const bool over = entry.state == State::ended || entry.state == State::free;
    if (over && entry.epoch == lease.epoch) throw_ended("reserve lease", lease);
    if (entry.state == State::ended) refuse("the slot's last end was not taken yet");
    if (entry.state != State::free) refuse("the slot is in use by epoch " + std::to_string(entry.epoch));
    occupy(lease);
  }

  void occupy(LeaseRef lease) {
    Entry& entry = entries[lease.slot];
    const bool listed = entry.listed;
    entry = Entry{.state = State::reserved, .listed = listed, .epoch = lease.epoch};
    ++live;
    // The watermark first: whoever sees the new epoch must not see the old lease's watermark with it.
    words[lease.slot].watermark.store(0, std::memory_order_release);
    words[lease.slot].epoch.store(lease.epoch, std::memory_order_release);
  }

  void end(std::uint32_t slot, LeaseEndReason reason) {
    Entry& entry = entries[slot];
    words[slot].epoch.store(0, std::memory_order_release);
    // A release store does not keep later writes behind it, and those writes are the blocks' next contents.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (entry.hold_until) deadlines.erase({entry.deadline, slot});
    ended.push_back({{slot, entry.epoch}, reason});
    entry.state = State::ended;
    entry.blocks = {};
    entry.ranges = {};
    --live;
    tell();
  }

  void set_deadline(std::uint32_t slot, Clock::time_point when) {
    Entry& entry = entries[slot];
    deadlines.erase({entry.deadline, slot});
    entry.deadline = std::min(when, *entry.hold_until);
    deadlines.emplace(entry.deadline, slot);
  }
};

LeaseTable::LeaseTable(std::uint32_t slots, Seconds max_hold, std::shared_ptr<LeaseWord[]> words) {
  const ErrorContext context{.operation = "create lease table"};
  if (slots == 0 || slots > max_slots) {
    throw Error(Errc::config,
                "lease_slots=" + std::to_string(slots) + " is not between 1 and " + std::to_string(max_slots), context);
  }
  if (!usable(max_hold) || max_hold.count() == 0) {
    throw Error(Errc::config, "max_hold=" + std::to_string(max_hold.count()) + " is not a positive number of seconds",
                context);
  }
  if (!words) words = std::shared_ptr<LeaseWord[]>(new LeaseWord[slots]);
  _impl = std::make_shared<Impl>(std::move(words), slots, max_hold);
}

std::optional<LeaseRef> LeaseTable::reserve() {
  const std::lock_guard lock(_impl->mutex);
  return _impl->take_free();
}

void LeaseTable::reserve(LeaseRef lease) {
  const std::lock_guard lock(_impl->mutex);
  _impl->take(lease);
}

void LeaseTable::grant(LeaseRef lease, const Tables& blocks, const Ranges& ranges) {
  check(ranges);
  const std::lock_guard lock(_impl->mutex);
  if (_impl->find(lease) == nullptr) throw_ended("grant", lease);
  _impl->name(lease, blocks, ranges);
}

std::optional<LeaseRef> LeaseTable::grant_or_reserve(std::optional<LeaseRef> lease, const Tables& blocks,
                                                     const Ranges& ranges) {
  check(ranges);
  const std::lock_guard lock(_impl->mutex);
  if (!lease) {
    lease = _impl->take_free();
  } else if (_impl->find(*lease) == nullptr) {
    _impl->take(*lease);
  }
  if (lease) _impl->name(*lease, blocks, ranges);
  return lease;
}

void LeaseTable::raise_watermark(LeaseRef lease, std::uint64_t positions) {
  const std::lock_guard lock(_impl->mutex);
  if (_impl->find(lease) == nullptr) throw_ended("raise_watermark", lease);
  auto& watermark = _impl->words[lease.slot].watermark;
  if (positions <= watermark.load(std::memory_order_relaxed)) return;
  watermark.store(positions, std::memory_order_release);
  // Before a listener looks whether anybody waits, as whoever waits says so before it looks at the watermark.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  _impl->tell();
}

void LeaseTable::start_term(LeaseRef lease, Seconds term) {
  const std::lock_guard lock(_impl->mutex);
  if (!usable(term)) {
    throw Error(Errc::config, "term=" + std::to_string(term.count()) + " is not a number of seconds",
                {.operation = "start_term"});
  }
  Entry* entry = _impl->find(lease);
  if (entry == nullptr) throw_ended("start_term", lease);
  if (entry->completes > 0 && entry->completes >= entry->readers) {
    _impl->end(lease.slot, LeaseEndReason::completed);
    return;
  }
  const auto now = Clock::now();
  if (!entry->hold_until) entry->hold_until = now + bounded(_impl->max_hold.count());
  _impl->set_deadline(lease.slot, now + bounded(term.count()));
}

bool LeaseTable::renew(LeaseRef lease, Seconds term) {
  const std::lock_guard lock(_impl->mutex);
  Entry* entry = _impl->find(lease);
  if (entry == nullptr || !usable(term)) return false;
  if (!entry->hold_until) return true;  // live, and nothing expires before start_term
  const auto now = Clock::now();
  // Overdue, though nobody has called expire() yet: what was promised is over.
  if (entry->deadline <= now) return false;
  _impl->set_deadline(lease.slot, std::max(entry->deadline, now + bounded(term.count())));
  return true;
}

bool LeaseTable::complete(LeaseRef lease, std::uint32_t readers) {
  const std::lock_guard lock(_impl->mutex);
  Entry* entry = _impl->find(lease);
  if (entry == nullptr) return false;
  // The highest count anyone named: one rank that says less must not end the lease under the others.
  entry->readers = std::max({entry->readers, readers, 1U});
  if (entry->completes < entry->readers) ++entry->completes;
  if (entry->completes >= entry->readers && entry->hold_until) _impl->end(lease.slot, LeaseEndReason::completed);
  return true;
}

bool LeaseTable::revoke(LeaseRef lease, LeaseEndReason reason) {
  const std::lock_guard lock(_impl->mutex);
  if (_impl->find(lease) == nullptr) return false;
  _impl->end(lease.slot, reason);
  return true;
}

void LeaseTable::revoke_all() {
  const std::lock_guard lock(_impl->mutex);
  for (std::uint32_t slot = 0; slot < _impl->entries.size() && _impl->live > 0; ++slot) {
    const State state = _impl->entries[slot].state;
    if (state == State::reserved || state == State::granted) _impl->end(slot, LeaseEndReason::revoked);
  }
}

std::optional<Clock::time_point> LeaseTable::expire(Clock::time_point now) {
  const std::lock_guard lock(_impl->mutex);
  auto& deadlines = _impl->deadlines;
  while (!deadlines.empty() && deadlines.begin()->first <= now) {
    const std::uint32_t slot = deadlines.begin()->second;
    const Entry& entry = _impl->entries[slot];
    const bool held_too_long = entry.deadline >= *entry.hold_until;
    _impl->end(slot, held_too_long ? LeaseEndReason::max_hold : LeaseEndReason::expired);
  }
  if (deadlines.empty()) return std::nullopt;
  return deadlines.begin()->first;
}

void LeaseTable::on_change(std::function<void()> changed) {
  const std::lock_guard lock(_impl->mutex);
  _impl->listeners.push_back(std::move(changed));
}

LeaseVerdict LeaseTable::verdict(LeaseRef lease, std::uint64_t positions) const {
  const auto words = this->words();
  if (lease.slot >= words.size() || lease.epoch == 0) return LeaseVerdict::expired;
  const LeaseWord& word = words[lease.slot];
  // The bytes that were read before this call must not be read after the epoch.
  std::atomic_thread_fence(std::memory_order_acquire);
  // Twice: a watermark read before the slot was taken for this lease is another lease's.
  if (word.epoch.load(std::memory_order_acquire) != lease.epoch) return LeaseVerdict::expired;
  const std::uint64_t watermark = word.watermark.load(std::memory_order_acquire);
  // The epoch last: were the slot another lease's when the watermark was read, this load could not see ours again.
  if (word.epoch.load(std::memory_order_acquire) != lease.epoch) return LeaseVerdict::expired;
  return watermark < positions ? LeaseVerdict::not_yet : LeaseVerdict::valid;
}

std::optional<Tables> LeaseTable::blocks(LeaseRef lease, std::span<const std::size_t> known) const {
  const std::lock_guard lock(_impl->mutex);
  const Entry* entry = _impl->find_granted(lease);
  return entry == nullptr ? std::nullopt : std::optional(behind(entry->blocks, known));
}

std::optional<Ranges> LeaseTable::ranges(LeaseRef lease, std::span<const std::size_t> known) const {
  const std::lock_guard lock(_impl->mutex);
  const Entry* entry = _impl->find_granted(lease);
  return entry == nullptr ? std::nullopt : std::optional(behind(entry->ranges, known));
}

std::vector<LeaseEnd> LeaseTable::take_ended() {
  const std::lock_guard lock(_impl->mutex);
  std::vector<LeaseEnd> taken = std::exchange(_impl->ended, {});
  for (const LeaseEnd& end : taken) {
    Entry& entry = _impl->entries[end.lease.slot];
    entry.state = State::free;
    if (!entry.listed) _impl->candidates.push_back(end.lease.slot);
    entry.listed = true;
  }
  return taken;
}

std::size_t LeaseTable::live() const {
  const std::lock_guard lock(_impl->mutex);
  return _impl->live;
}

std::span<const LeaseWord> LeaseTable::words() const noexcept { return {_impl->words.get(), _impl->entries.size()}; }

}  // namespace kvdirect
