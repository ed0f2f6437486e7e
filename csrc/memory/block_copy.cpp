// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "memory/block_copy.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvdirect {

namespace {

#if defined(__x86_64__)

constexpr std::size_t fetched_ahead = 512;
constexpr std::size_t line_bytes = 64;

// Whole vectors past the caches: `to` lies on a vector, `bytes` is a multiple of `at_once`.
struct Streaming {
  void (*copy)(std::byte* to, const std::byte* from, std::size_t bytes) noexcept;
  std::size_t vector_bytes;
  std::size_t at_once;
  std::size_t from;  // bytes of a block; below, memcpy is as fast
};

__attribute__((target("avx2"))) void stream_avx2(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  for (std::size_t at = 0; at < bytes; at += 128) {
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

__attribute__((target("avx512f"))) void stream_avx512(std::byte* to, const std::byte* from,
                                                      std::size_t bytes) noexcept {
  for (std::size_t at = 0; at < bytes; at += 128) {
    const __m512i a = _mm512_loadu_si512(from + at);
    const __m512i b = _mm512_loadu_si512(from + at + line_bytes);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at + line_bytes), b);
  }
}

// By measurement, on scattered blocks that no cache holds: Intel's cores and AMD's Zen 3 gain from 256 bytes on (blocks
// of 1 KiB to 8 KiB 1.6 to 2 times as fast), Intel's with stores of whole lines from two of them on (1.4 times as
// fast); AMD's Zen 5 only with large blocks.
Streaming choose() noexcept {
  const bool intel = __builtin_cpu_is("intel") != 0;
  const bool lines = __builtin_cpu_supports("avx512f") != 0;
  if (intel && lines) return {stream_avx512, 64, 128, 128};
  const std::size_t from = !intel && lines ? 16384 : 256;
  if (__builtin_cpu_supports("avx2") != 0) return {stream_avx2, 32, 128, from};
  return {nullptr, 1, 1, SIZE_MAX};
}

const Streaming& streaming() noexcept {
  static const Streaming chosen = choose();
  return chosen;
}

#endif

}  // namespace

void fetch_ahead([[maybe_unused]] const void* from, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__x86_64__)
  const auto* source = static_cast<const char*>(from);
  for (std::size_t at = 0; at < std::min(bytes, fetched_ahead); at += line_bytes) {
    _mm_prefetch(source + at, _MM_HINT_T0);
  }
#endif
}

void copy_block(void* to, const void* from, std::size_t bytes, [[maybe_unused]] Use use) noexcept {
#if defined(__x86_64__)
  if (const Streaming& way = streaming(); use == Use::late && bytes >= way.from) {
    auto* target = static_cast<std::byte*>(to);
    const auto* source = static_cast<const std::byte*>(from);
    const std::size_t past = reinterpret_cast<std::uintptr_t>(target) % way.vector_bytes;
    const std::size_t head = past == 0 ? 0 : way.vector_bytes - past;
    const std::size_t middle = (bytes - head) / way.at_once * way.at_once;
    if (head > 0) std::memcpy(target, source, head);
    way.copy(target + head, source + head, middle);
    if (const std::size_t tail = bytes - head - middle; tail > 0) {
      std::memcpy(target + head + middle, source + head + middle, tail);
    }
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
