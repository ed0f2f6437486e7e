// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "target.h"

#include <cstdio>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define KVDIRECT_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KVDIRECT_ASAN
#endif
#endif

namespace {
thread_local std::uint64_t asked_for = 0;
}

namespace kvdirect::fuzz {

void broken(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
  std::abort();
}

std::uint64_t allocated() noexcept { return asked_for; }

}  // namespace kvdirect::fuzz

// A decoder that believes a number would ask for as much before it finds that the bytes are not there.
#ifdef KVDIRECT_ASAN
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, std::size_t),
                                                         void (*)(const volatile void*));
static const int hooks = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, std::size_t bytes) { asked_for += bytes; }, [](const volatile void*) {});
#else
void* operator new(std::size_t bytes) {
  asked_for += bytes;
  void* const place = std::malloc(bytes == 0 ? 1 : bytes);
  if (place == nullptr) throw std::bad_alloc();
  return place;
}
void operator delete(void* place) noexcept { std::free(place); }
void operator delete(void* place, std::size_t /*bytes*/) noexcept { std::free(place); }
#endif
