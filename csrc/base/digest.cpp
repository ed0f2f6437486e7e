// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "base/digest.h"

#define XXH_INLINE_ALL
#include <xxhash/xxhash.h>

#include <cstring>

namespace kvdirect {

std::string hex(const Digest& digest) {
  constexpr const char* digits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : digest) {
    text += digits[std::to_integer<unsigned>(byte) >> 4];
    text += digits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

struct Hasher::State {
  XXH3_state_t xxh3{};
};

Hasher::Hasher() : _state(std::make_unique<State>()) { XXH3_128bits_reset(&_state->xxh3); }
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::add(std::span<const std::byte> bytes) noexcept {
  XXH3_128bits_update(&_state->xxh3, bytes.data(), bytes.size());
}

Digest Hasher::digest() const noexcept {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&_state->xxh3));
  Digest digest{};
  static_assert(sizeof canonical == sizeof digest);
  std::memcpy(digest.data(), &canonical, sizeof digest);
  return digest;
}

}  // namespace kvdirect
