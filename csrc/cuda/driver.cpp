// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/driver.h"

#include <dlfcn.h>

#include <mutex>
#include <string>

namespace kvdirect {

namespace {

std::mutex mutex;
std::string library = "libcuda.so.1";

Error refuse(const std::string& why, const std::string& status, const std::string& hint) {
  return {Errc::lane, "CUDA does not work: " + why, {.operation = "load the driver", .status = status, .hint = hint}};
}

template <typename Function>
void find(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
}

#if CUDA_VERSION >= 13000
// By its name, or as the driver gives out what it does not export by name. Null where it is older.
void find_batch(void* handle, CudaDriver& found) {
  find(handle, "cuMemcpyBatchAsync_v2", found.cuMemcpyBatchAsync);
  decltype(&::cuGetProcAddress) get = nullptr;
  find(handle, "cuGetProcAddress_v2", get);
  if (found.cuMemcpyBatchAsync || !get) return;
  void* address = nullptr;
  const CUresult result = get("cuMemcpyBatchAsync", &address, 13000, CU_GET_PROC_ADDRESS_DEFAULT, nullptr);
  if (result == CUDA_SUCCESS) found.cuMemcpyBatchAsync = reinterpret_cast<decltype(found.cuMemcpyBatchAsync)>(address);
}
#endif

std::string chosen_library() {
  const std::lock_guard lock(mutex);
  return library;
}

CudaDriver load() {
  const std::string file = chosen_library();
  // Local: other libraries of this process may have a driver of their own idea.
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = dlerror();
    throw refuse("this host has no driver", why ? why : "", "install NVIDIA's driver; in a container, pass the GPU in");
  }
  CudaDriver found;
  const auto need = [&](const char* name, auto& function) {
    find(handle, name, function);
    if (!function) throw refuse(std::string("the driver has no ") + name, file, "install a newer driver");
  };
  // Two steps, so that cuda.h's names of newer versions (cuMemAlloc_v2) are what is looked for.
#define KVDIRECT_NAME(function) #function
#define KVDIRECT_FIND(function) need(KVDIRECT_NAME(function), found.function);
  KVDIRECT_CUDA_FUNCTIONS(KVDIRECT_FIND)
#if CUDA_VERSION >= 13000
  find_batch(handle, found);
#endif
#undef KVDIRECT_FIND
#undef KVDIRECT_NAME
  const CUresult result = found.cuInit(0);
  if (result != CUDA_SUCCESS) {
    const char* name = nullptr;
    static_cast<void>(found.cuGetErrorName(result, &name));
    throw refuse("the driver finds no GPU it can use", name ? name : std::to_string(result),
                 "see whether nvidia-smi lists one, and CUDA_VISIBLE_DEVICES");
  }
  return found;
}

}  // namespace

const CudaDriver& driver() {
  // No lock of our own once it is loaded: it is called all the time, and a fork would copy a lock while it is held.
  static const CudaDriver loaded = load();
  return loaded;
}

void use_cuda_driver(const std::string& path) {
  const std::lock_guard lock(mutex);
  library = path;
}

std::string cuda_status(CUresult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  static_cast<void>(driver().cuGetErrorName(result, &name));
  static_cast<void>(driver().cuGetErrorString(result, &text));
  if (!name) return "CUDA error " + std::to_string(result);
  return std::string(name) + (text ? std::string(": ") + text : "");
}

void check_cuda(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  throw Error(Errc::transport, std::string("CUDA could not ") + what,
              {.operation = what, .status = cuda_status(result)});
}

}  // namespace kvdirect
