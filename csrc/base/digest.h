// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace kvdirect {

// XXH3-128 of bytes, in its canonical order: tells bytes apart that differ by accident. No key is in it.
using Digest = std::array<std::byte, 16>;

[[nodiscard]] std::string hex(const Digest& digest);

// Takes in bytes piece by piece.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void add(std::span<const std::byte> bytes) noexcept;
  [[nodiscard]] Digest digest() const noexcept;  // of all so far

 private:
  struct State;
  std::unique_ptr<State> _state;
};

}  // namespace kvdirect
