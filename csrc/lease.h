// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace kvdirect {

// Names one lease: a slot in the owner's table and the epoch it must hold. Epochs are random, never 0, never reused.
struct LeaseRef {
  std::uint32_t slot = 0;
  std::uint64_t epoch = 0;
  bool operator==(const LeaseRef&) const = default;
};

// The two words a reader checks after its bytes have landed. Epoch 0: nothing is promised. Readers on the same host
// read them straight out of the owner's memory, so the layout is part of the wire protocol.
struct LeaseWord {
  std::atomic<std::uint64_t> epoch{0};
  std::atomic<std::uint64_t> watermark{0};  // positions that are final
};
static_assert(sizeof(LeaseWord) == 16);

// The same two words as a reader copied them while the owner may have been writing.
struct LeaseCopy {
  std::uint64_t epoch = 0;
  std::uint64_t watermark = 0;
};
static_assert(sizeof(LeaseCopy) == sizeof(LeaseWord));

// What two copies, one taken after the other, vouch for. Half a new watermark and half an old one could be higher than
// both, so the lower counts; epochs are random, so a torn one is nobody's and the lease looks ended.
[[nodiscard]] constexpr LeaseCopy vouched(LeaseCopy first, LeaseCopy second) noexcept {
  return {first.epoch == second.epoch ? first.epoch : 0,
          first.watermark < second.watermark ? first.watermark : second.watermark};
}

enum class LeaseEndReason : std::uint8_t { completed, expired, revoked, max_hold };

struct LeaseEnd {
  LeaseRef lease;
  LeaseEndReason reason = LeaseEndReason::completed;
};

enum class LeaseVerdict : std::uint8_t { valid, not_yet, expired };

// The owner's promises. Every method is thread-safe; state changes happen under one lock, and the epoch is zeroed
// before an end is reported, so whoever sees the end may overwrite the blocks.
//
//   reserved -> granted -> completed | expired | revoked | max_hold
class LeaseTable {
 public:
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  using Tables = std::vector<std::vector<std::int64_t>>;
  // Blocks from `begin` up to `end`, which is not of them; whoever grants millions does not name each.
  struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    bool operator==(const Range&) const = default;
  };
  using Ranges = std::vector<std::vector<Range>>;  // of each table

  static constexpr std::uint32_t max_slots = 1U << 16;

  // `words`: as many zeroed ones as there are slots, where readers find them; null: some of its own.
  explicit LeaseTable(std::uint32_t slots = max_slots, Seconds max_hold = Seconds{480},
                      std::shared_ptr<LeaseWord[]> words = nullptr);

  // Takes a free slot with a fresh epoch; nullopt when the table is full.
  [[nodiscard]] std::optional<LeaseRef> reserve();
  // Takes exactly this slot and epoch (a scheduler chose them for all its ranks). Error(config) if the slot is in use
  // or the epoch is 0; Error(lease_expired) if this very lease ended already (epochs are never reused).
  void reserve(LeaseRef lease);
  // Names the blocks; appends to those named before. Makes a reserved lease granted. Error(lease_expired) if it ended.
  void grant(LeaseRef lease, const Tables& blocks, const Ranges& ranges = {});
  // The same for any lease: one that is not live here is reserved with exactly this slot and epoch, none takes a free
  // slot. nullopt when the table is full.
  std::optional<LeaseRef> grant_or_reserve(std::optional<LeaseRef> lease, const Tables& blocks,
                                           const Ranges& ranges = {});
  // Only after the positions below it are written. Never lowers. Error(lease_expired) if it ended.
  void raise_watermark(LeaseRef lease, std::uint64_t positions);
  // Starts or restarts the clock: the lease ends `term` from now unless renewed. Before the first call nothing expires.
  // Also fixes max_hold, counted from the first call.
  void start_term(LeaseRef lease, Seconds term);
  // A reader asks for more: false if there is nothing to renew. Never shortens, never beyond max_hold.
  bool renew(LeaseRef lease, Seconds term);
  // One reader rank is done. The lease ends when `readers` distinct calls were counted. Before start_term it is
  // remembered and the end is reported only after start_term. False when epoch and slot do not match (dropped,
  // counted).
  bool complete(LeaseRef lease, std::uint32_t readers);
  // False if it had ended already.
  bool revoke(LeaseRef lease, LeaseEndReason reason = LeaseEndReason::revoked);
  void revoke_all();
  // Ends what is overdue and says when to call again (nullopt: nothing has a deadline).
  std::optional<Clock::time_point> expire(Clock::time_point now);

  // `changed` is called, under the table's lock and by whichever thread does it, whenever a watermark rose or a lease
  // ended. What it looks at may be written before a call of verdict(): either that sees the change, or this call comes.
  void on_change(std::function<void()> changed);

  // What a reader's check would say now.
  [[nodiscard]] LeaseVerdict verdict(LeaseRef lease, std::uint64_t positions) const;
  // The blocks of a live granted lease, but for the first known[i] of table i; else nullopt.
  [[nodiscard]] std::optional<Tables> blocks(LeaseRef lease, std::span<const std::size_t> known = {}) const;
  // The same of what was granted as ranges.
  [[nodiscard]] std::optional<Ranges> ranges(LeaseRef lease, std::span<const std::size_t> known = {}) const;
  // Each end once, in order.
  [[nodiscard]] std::vector<LeaseEnd> take_ended();
  [[nodiscard]] std::size_t live() const;

  // The words, for readers that map or read this process's memory.
  [[nodiscard]] std::span<const LeaseWord> words() const noexcept;

 private:
  struct Impl;
  std::shared_ptr<Impl> _impl;
};

}  // namespace kvdirect
