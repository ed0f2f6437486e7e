// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "call.h"

#include <pthread.h>

#include <array>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "context.h"

namespace kvdirect::sim {

namespace {

std::atomic<bool> initialised = false;
std::atomic<bool> forked = false;
thread_local bool in_host_function = false;

bool verbose() {
  static const bool wanted = std::getenv("KVDIRECT_SIM_CUDA_VERBOSE") != nullptr;
  return wanted;
}

CUresult guarded(const char* function, const std::function<void()>& body) noexcept {
  CUresult result = CUDA_SUCCESS;
  std::string why;
  try {
    if (forked) refuse(CUDA_ERROR_NOT_INITIALIZED, "the process was forked after cuInit");
    if (in_host_function) {
      say(std::string(function) + " was called in a host function, which must not use CUDA");
      refuse(CUDA_ERROR_NOT_PERMITTED, "called in a host function");
    }
    body();
  } catch (const Refusal& refusal) {
    result = refusal.result;
    why = refusal.why;
  } catch (const std::bad_alloc&) {
    result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY && verbose()) {
    say(std::string(function) + ": " + error_name(result) + ": " + why);
  }
  return result;
}

}  // namespace

void refuse(CUresult result, std::string why) { throw Refusal{result, std::move(why)}; }

void undefined(const std::string& what) {
  say("undefined behaviour: " + what);
  std::abort();
}

void say(const std::string& text) {
  // In one piece: other threads and processes write there too.
  const std::string line = "kvdirect sim cuda: " + text + "\n";
  static_cast<void>(std::fputs(line.c_str(), stderr));
}

std::string hex(std::uint64_t value) {
  std::array<char, 16> digits{};
  const auto end = std::to_chars(digits.begin(), digits.end(), value, 16).ptr;
  return "0x" + std::string(digits.data(), end);
}

CUresult call(const char* function, const std::function<void()>& body) noexcept {
  return guarded(function, [&] {
    if (!initialised) refuse(CUDA_ERROR_NOT_INITIALIZED, "cuInit comes first");
    body();
  });
}

CUresult call_in_context(const char* function, const std::function<void(Context&)>& body) noexcept {
  return call(function, [&] { body(current_context()); });
}

CUresult call_uninitialised(const char* function, const std::function<void()>& body) noexcept {
  return guarded(function, body);
}

void mark_initialised() {
  if (initialised.exchange(true)) return;
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
}

InHostFunction::InHostFunction() noexcept { in_host_function = true; }
InHostFunction::~InHostFunction() { in_host_function = false; }

}  // namespace kvdirect::sim
