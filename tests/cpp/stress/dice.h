// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstdint>
#include <random>

namespace kvdirect::stress {

using Clock = std::chrono::steady_clock;

// One thread's random choices.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : _engine(seed) {}

  [[nodiscard]] std::uint64_t seed() { return _engine(); }
  // 0 to count - 1.
  [[nodiscard]] std::uint64_t below(std::uint64_t count) { return _engine() % count; }
  [[nodiscard]] bool chance(unsigned percent) { return below(100) < percent; }
  [[nodiscard]] double between(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(_engine);
  }
  [[nodiscard]] Clock::duration seconds(double low, double high) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(between(low, high)));
  }

 private:
  std::mt19937_64 _engine;
};

}  // namespace kvdirect::stress
