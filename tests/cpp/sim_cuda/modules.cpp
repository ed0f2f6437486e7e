// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "modules.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "cuda/bulk_slots.h"
#include "cuda/copy_box.h"

namespace kvdirect::sim {

namespace {

constexpr unsigned most_shared_memory = 227 << 10;
constexpr std::array<unsigned char, 4> fatbin_magic = {0x50, 0xed, 0x55, 0xba};
constexpr std::array<unsigned char, 4> elf_magic = {0x7f, 'E', 'L', 'F'};

struct NamedFunction {
  const char* name;
  Kernel kernel;
  std::uintptr_t offset;  // from a module's handle, which 16 divides, to the function's
};
constexpr std::array functions = {NamedFunction{kvdirect::order_kernel_name, Kernel::order, 4},
                                  NamedFunction{kvdirect::copy_kernel_name, Kernel::plain, 8},
                                  NamedFunction{kvdirect::bulk_kernel_name, Kernel::bulk, 12}};

}  // namespace

Registry<Module, CUmodule>& modules() {
  static auto& all = *new Registry<Module, CUmodule>("module", 0x7c04'0000'0000);
  return all;
}

Function function_of(CUfunction handle) {
  const auto number = reinterpret_cast<std::uintptr_t>(handle);
  const std::uintptr_t offset = number % 16;
  const auto named = std::ranges::find(functions, offset, &NamedFunction::offset);
  if (named == functions.end()) refuse(CUDA_ERROR_INVALID_HANDLE, "that is no function");
  return {modules().find(reinterpret_cast<CUmodule>(number - offset)), named->kernel};
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
    const auto named =
        std::ranges::find_if(functions, [&](const NamedFunction& known) { return std::strcmp(name, known.name) == 0; });
    if (named == functions.end()) refuse(CUDA_ERROR_NOT_FOUND, std::string("no kernel ") + name);
    *function = reinterpret_cast<CUfunction>(reinterpret_cast<std::uintptr_t>(handle) + named->offset);
  });
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  return call_in_context("cuFuncSetAttribute", [&](const Context&) {
    const Function function = function_of(handle);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 ||
        static_cast<unsigned>(value) > most_shared_memory) {
      refuse(CUDA_ERROR_INVALID_VALUE, "of functions, only up to 227 KiB of shared memory can be set");
    }
    if (function.kernel == Kernel::bulk) function.module->bulk_memory = static_cast<unsigned>(value);
  });
}

CUresult CUDAAPI cuModuleUnload(CUmodule handle) {
  return call_in_context("cuModuleUnload", [&](const Context&) { static_cast<void>(modules().take(handle)); });
}

}  // extern "C"
