// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "wire/messages.h"

// What is fed with bytes that nobody vouches for, by libFuzzer or from files. A target returns whatever the input is;
// where something does not hold that must, it ends the process.
namespace kvdirect::fuzz {

struct Target {
  std::string_view name;
  void (*run)(BytesView input);
};

inline std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}

struct Register {
  Register(std::string_view name, void (*run)(BytesView)) { targets().push_back({name, run}); }
};

// Says so and aborts.
[[noreturn]] void broken(const char* file, int line, const char* what);

// Bytes that this thread has asked the heap for since it began.
[[nodiscard]] std::uint64_t allocated() noexcept;

// What is taken of an input, from its beginning; zeroes when it has no more.
class Input {
 public:
  explicit Input(BytesView bytes) : _left(bytes) {}

  [[nodiscard]] bool empty() const noexcept { return _left.empty(); }
  std::uint64_t number(std::size_t bytes) noexcept {
    std::uint64_t value = 0;
    for (const std::byte byte : take(bytes)) value = value << 8 | std::to_integer<std::uint64_t>(byte);
    return value;
  }
  std::uint64_t below(std::uint64_t limit) noexcept { return number(limit > 256 ? 4 : 1) % limit; }
  BytesView take(std::size_t bytes) noexcept {
    const BytesView front = _left.first(std::min(bytes, _left.size()));
    _left = _left.subspan(front.size());
    return front;
  }
  BytesView rest() noexcept { return std::exchange(_left, {}); }

 private:
  BytesView _left;
};

}  // namespace kvdirect::fuzz

#define FUZZ_TARGET(name)                                                    \
  static void fuzz_##name(kvdirect::BytesView);                              \
  static const kvdirect::fuzz::Register register_##name{#name, fuzz_##name}; \
  static void fuzz_##name(kvdirect::BytesView input)

#define HOLDS(...)                                                                \
  do {                                                                            \
    if (!(__VA_ARGS__)) kvdirect::fuzz::broken(__FILE__, __LINE__, #__VA_ARGS__); \
  } while (false)
