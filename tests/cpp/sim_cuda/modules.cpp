// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "modules.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "cuda/copy_box.h"

namespace kvdirect::sim {

namespace {

constexpr std::array<unsigned char, 4> fatbin_magic = {0x50, 0xed, 0x55, 0xba};
constexpr std::array<unsigned char, 4> elf_magic = {0x7f, 'E', 'L', 'F'};
// From a module's handle to those of its functions.
constexpr std::uintptr_t to_plain = 8;
constexpr std::uintptr_t to_order = 4;

}  // namespace

Registry<Module, CUmodule>& modules() {
  static auto& all = *new Registry<Module, CUmodule>("module", 0x7c04'0000'0000);
  return all;
}

Function function_of(CUfunction handle) {
  const auto number = reinterpret_cast<std::uintptr_t>(handle);
  if (number < to_plain) refuse(CUDA_ERROR_INVALID_HANDLE, "that is no function");
  const bool order = number % 8 == to_order;
  const auto module = reinterpret_cast<CUmodule>(number - (order ? to_order : to_plain));
  return {modules().find(module), order ? Kernel::order : Kernel::plain};
}

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuModuleLoadData(CUmodule* handle, const void* image) {
  return call_in_context("cuModuleLoadData", [&](Context& context) {
    if (!handle || !image) refuse(CUDA_ERROR_INVALID_VALUE, "no image, or nowhere to put the module");
    if (std::memcmp(image, fatbin_magic.data(), fatbin_magic.size()) != 0 &&
        std::memcmp(image, elf_magic.data(), elf_magic.size()) != 0) {
      refuse(CUDA_ERROR_INVALID_IMAGE, "the image begins neither as a fatbin nor as an ELF file");
    }
    *handle = modules().add(std::make_shared<Module>(context));
  });
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction* function, CUmodule handle, const char* name) {
  return call_in_context("cuModuleGetFunction", [&](const Context&) {
    if (!function || !name) refuse(CUDA_ERROR_INVALID_VALUE, "no name, or nowhere to put the function");
    static_cast<void>(modules().find(handle));
    const bool order = std::strcmp(name, kvdirect::order_kernel_name) == 0;
    if (!order && std::strcmp(name, kvdirect::copy_kernel_name) != 0)
      refuse(CUDA_ERROR_NOT_FOUND, std::string("no kernel ") + name);
    *function = reinterpret_cast<CUfunction>(reinterpret_cast<std::uintptr_t>(handle) + (order ? to_order : to_plain));
  });
}

CUresult CUDAAPI cuModuleUnload(CUmodule handle) {
  return call_in_context("cuModuleUnload", [&](const Context&) { static_cast<void>(modules().take(handle)); });
}

}  // extern "C"
