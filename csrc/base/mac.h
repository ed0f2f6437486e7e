// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace kvdirect {

// An HMAC-SHA256.
using Mac = std::array<std::byte, 32>;

// What computes them: OpenSSL's libcrypto or libsodium, loaded into a scope of its own.
class MacLibrary {
 public:
  // The first of the system's libraries and then of `more`, which are files, that can be loaded. Throws Error(config).
  static MacLibrary find(const std::vector<std::string>& more);
  // This one. Throws Error(config).
  static MacLibrary load(const std::string& name);

  [[nodiscard]] const std::string& name() const noexcept { return _name; }
  // Any thread. Throws Error(transport) where the library fails.
  [[nodiscard]] Mac compute(std::span<const std::byte> key, std::span<const std::byte> message) const;

 private:
  using Compute = std::function<bool(std::span<const std::byte> key, std::span<const std::byte> message, Mac& mac)>;

  MacLibrary(std::string name, Compute compute) : _name(std::move(name)), _compute(std::move(compute)) {}

  std::string _name;
  Compute _compute;
};

// The process's one, found by the first call that succeeds; `more` as above. Throws Error(config).
const MacLibrary& mac_library(const std::vector<std::string>& more = {});

[[nodiscard]] inline Mac mac_of(std::span<const std::byte> key, std::span<const std::byte> message) {
  return mac_library().compute(key, message);
}

}  // namespace kvdirect
