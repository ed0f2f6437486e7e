// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "memory/block_copy.h"

#include <atomic>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvdirect {

namespace {

#if defined(__x86_64__)

constexpr std::size_t streamed_from = std::size_t{16} << 10;
constexpr std::size_t vector_bytes = 32;
constexpr std::size_t at_once = 4 * vector_bytes;

__attribute__((target("avx2"))) void stream(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  for (std::size_t at = 0; at < bytes; at += at_once) {
    const auto* source = reinterpret_cast<const __m256i*>(from + at);
    auto* target = reinterpret_cast<__m256i*>(to + at);
    const __m256i a = _mm256_loadu_si256(source);
    const __m256i b = _mm256_loadu_si256(source + 1);
    const __m256i c = _mm256_loadu_si256(source + 2);
    const __m256i d = _mm256_loadu_si256(source + 3);
    _mm256_stream_si256(target, a);
    _mm256_stream_si256(target + 1, b);
    _mm256_stream_si256(target + 2, c);
    _mm256_stream_si256(target + 3, d);
  }
}

bool can_stream() noexcept {
  static const bool can = __builtin_cpu_supports("avx2") != 0;
  return can;
}

#endif

}  // namespace

void copy_block(void* to, const void* from, std::size_t bytes, [[maybe_unused]] Use use) noexcept {
#if defined(__x86_64__)
  if (use == Use::late && bytes >= streamed_from && can_stream()) {
    auto* target = static_cast<std::byte*>(to);
    const auto* source = static_cast<const std::byte*>(from);
    const std::size_t head = (vector_bytes - reinterpret_cast<std::uintptr_t>(target) % vector_bytes) % vector_bytes;
    std::memcpy(target, source, head);
    const std::size_t middle = (bytes - head) / at_once * at_once;
    stream(target + head, source + head, middle);
    std::memcpy(target + head + middle, source + head + middle, bytes - head - middle);
    return;
  }
#endif
  std::memcpy(to, from, bytes);
}

void copies_done() noexcept {
#if defined(__x86_64__)
  _mm_sfence();
#endif
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

}  // namespace kvdirect
