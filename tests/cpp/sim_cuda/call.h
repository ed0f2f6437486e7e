// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "cuda_api.h"

// What every function of the simulated driver has in common: how it is entered, and the three ways it says no.
namespace kvdirect::sim {

class Context;

// The driver would return this. The reason is printed where KVDIRECT_SIM_CUDA_VERBOSE is set.
struct Refusal {
  CUresult result;
  std::string why;
};
[[noreturn]] void refuse(CUresult result, std::string why);

// Work on the GPU would fail so, and the context with it.
struct Fault {
  CUresult result;
  std::string why;
};

// CUDA does not define what happens then: says so and ends the process.
[[noreturn]] void undefined(const std::string& what);

void say(const std::string& text);
[[nodiscard]] std::string hex(std::uint64_t value);
[[nodiscard]] const char* error_name(CUresult result);

// Runs the body of a driver function: refused before cuInit, in a forked child and in a host function.
CUresult call(const char* function, const std::function<void()>& body) noexcept;
// Likewise, for functions whose documentation lists CUDA_ERROR_INVALID_CONTEXT: with the calling thread's context.
CUresult call_in_context(const char* function, const std::function<void(Context&)>& body) noexcept;
// Likewise, for cuInit itself.
CUresult call_uninitialised(const char* function, const std::function<void()>& body) noexcept;

void mark_initialised();

// While one lives, its thread runs a host function of a stream.
class InHostFunction {
 public:
  InHostFunction() noexcept;
  InHostFunction(const InHostFunction&) = delete;
  InHostFunction& operator=(const InHostFunction&) = delete;
  ~InHostFunction();
};

}  // namespace kvdirect::sim
