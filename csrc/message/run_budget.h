// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <cstdint>

#include "base/non_copyable.h"
#include "wire/messages.h"

namespace kvdirect {

// How many runs of pulls an owner keeps for all its readers together, beyond a few that each may always have: readers
// that ask for much share what there is, and no ordinary pull is refused for them. Any thread.
class RunBudget {
 public:
  static constexpr std::uint64_t own = std::uint64_t{16} << 10;

  explicit RunBudget(std::uint64_t limit = 4 * limits::runs_at_once) noexcept : _limit(limit) {}

  // False, and nothing is taken, where there is not so much left.
  [[nodiscard]] bool take(std::uint64_t runs) noexcept {
    if (_taken.fetch_add(runs) + runs <= _limit) return true;
    _taken -= runs;
    return false;
  }
  void give_back(std::uint64_t runs) noexcept { _taken -= runs; }

 private:
  const std::uint64_t _limit;
  std::atomic<std::uint64_t> _taken = 0;
};

// What one reader's pulls have of it.
class RunShare : NonCopyable {
 public:
  explicit RunShare(RunBudget& budget) noexcept : _budget(budget) {}
  ~RunShare() { _budget.give_back(_taken); }

  // Runs are counted in any case; false where there is no room for them, and whose they are must be refused.
  [[nodiscard]] bool add(std::uint64_t runs) noexcept {
    _runs += runs;
    const std::uint64_t wanted = beyond_own();
    if (wanted <= _taken) return true;
    if (!_budget.take(wanted - _taken)) return false;
    _taken = wanted;
    return true;
  }
  void remove(std::uint64_t runs) noexcept {
    _runs -= runs;
    const std::uint64_t wanted = beyond_own();
    if (wanted >= _taken) return;
    _budget.give_back(_taken - wanted);
    _taken = wanted;
  }
  [[nodiscard]] std::uint64_t runs() const noexcept { return _runs; }

 private:
  [[nodiscard]] std::uint64_t beyond_own() const noexcept {
    return _runs > RunBudget::own ? _runs - RunBudget::own : 0;
  }

  RunBudget& _budget;
  std::uint64_t _runs = 0;
  std::uint64_t _taken = 0;
};

}  // namespace kvdirect
