// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "pull.h"

namespace kvdirect {

// How long a peer's pulls take, by the last one that was not small beside those before it, and how many are under way.
// Any thread.
class CopySpeed {
 public:
  std::atomic<unsigned> under_way{0};

  // Zero: not known. Rather too short: what takes long because it waits says little of more bytes.
  [[nodiscard]] std::chrono::duration<double> takes(std::uint64_t bytes) {
    const std::lock_guard lock(_mutex);
    return _took * std::min(1.0, static_cast<double>(bytes) / static_cast<double>(std::max<std::uint64_t>(_bytes, 1)));
  }
  void learn(std::uint64_t bytes, std::chrono::duration<double> took) {
    const std::lock_guard lock(_mutex);
    if (bytes < _bytes / 4) return;
    _bytes = bytes;
    _took = took;
  }

 private:
  std::mutex _mutex;
  std::uint64_t _bytes = 0;
  std::chrono::duration<double> _took{0};
};

// When to look whether one pull's copies are done: seldom while the end is far, so that it costs nothing, and on time.
// One thread at a time.
class EndForecast {
 public:
  // Looks begin so long before the end.
  static constexpr auto early = std::chrono::microseconds(20);
  static constexpr auto grain = std::chrono::microseconds(25);
  // So long may a pull be looked at without a pause.
  static constexpr auto most_spun = std::chrono::microseconds(100);

  explicit EndForecast(std::shared_ptr<CopySpeed> speed) : _speed(std::move(speed)) {}
  ~EndForecast() {
    if (_began) --_speed->under_way;
  }
  EndForecast(const EndForecast&) = delete;
  EndForecast& operator=(const EndForecast&) = delete;

  void given(std::uint64_t bytes) {
    if (!_began) {
      ++_speed->under_way;
      _began = Clock::now();
    }
    _bytes += bytes;
  }

  // It is not done yet. How long it may be left alone.
  Clock::duration not_yet(Clock::time_point now) {
    if (!_began) return grain;
    const auto left = end() - early - now;
    _looking = left <= grain;
    if (_looking) return grain;
    // It may come far sooner than the last time did: then it is seen late by a fraction of what it took.
    return std::max<Clock::duration>(std::min(left, (now - *_began) / 4), grain);
  }

  // Whether to look again at once: somebody waits, the end is due, and no other pull needs the thread.
  [[nodiscard]] bool spins(Clock::time_point now, const Pull& pull) const {
    return _began && pull.awaited() && _speed->under_way == 1 && now >= end() - early &&
           now < end() - early + most_spun;
  }

  // All of it is done.
  void over(Clock::time_point now) {
    if (!_began) return;
    --_speed->under_way;
    const std::chrono::duration<double> took = now - *_began;
    const auto known = _speed->takes(_bytes);
    // Or the end was missed, and may have been long ago.
    _speed->learn(_bytes, _looking ? took : 0.9 * (known.count() > 0 ? std::min(known, took) : took));
    _began.reset();
    _looking = false;
    _bytes = 0;
  }

 private:
  [[nodiscard]] Clock::time_point end() const {
    return _began.value_or(Clock::time_point{}) + std::chrono::duration_cast<Clock::duration>(_speed->takes(_bytes));
  }

  std::shared_ptr<CopySpeed> _speed;
  std::optional<Clock::time_point> _began;
  bool _looking = false;  // at every grain, as the end is near
  std::uint64_t _bytes = 0;
};

}  // namespace kvdirect
