// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// libFuzzer's entry points: KVDIRECT_FUZZ_TARGET says which target is fed.
#include <cstdio>
#include <cstdlib>
#include <span>

#include "target.h"

namespace {
const kvdirect::fuzz::Target* chosen = nullptr;
}

extern "C" int LLVMFuzzerInitialize(int* /*count*/, char*** /*arguments*/) {
  const char* const wanted = std::getenv("KVDIRECT_FUZZ_TARGET");
  for (const auto& target : kvdirect::fuzz::targets()) {
    if (wanted != nullptr && target.name == wanted) chosen = &target;
  }
  if (chosen != nullptr) return 0;
  std::fprintf(stderr, "KVDIRECT_FUZZ_TARGET is none of:");
  for (const auto& target : kvdirect::fuzz::targets()) std::fprintf(stderr, " %s", target.name.data());
  std::fprintf(stderr, "\n");
  std::exit(2);
}

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  chosen->run(std::as_bytes(std::span(data, size)));
  return 0;
}
