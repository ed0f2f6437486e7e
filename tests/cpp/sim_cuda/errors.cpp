// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <array>

#include "call.h"

namespace kvdirect::sim {

namespace {

struct Known {
  CUresult result;
  const char* name;
  const char* text;
};

#define KVDIRECT_KNOWN(result, text) \
  Known { result, #result, text }

constexpr std::array known = {
    KVDIRECT_KNOWN(CUDA_SUCCESS, "no error"),
    KVDIRECT_KNOWN(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    KVDIRECT_KNOWN(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    KVDIRECT_KNOWN(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    KVDIRECT_KNOWN(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    KVDIRECT_KNOWN(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    KVDIRECT_KNOWN(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    KVDIRECT_KNOWN(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    KVDIRECT_KNOWN(CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed"),
    KVDIRECT_KNOWN(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access is not supported between these two devices"),
    KVDIRECT_KNOWN(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    KVDIRECT_KNOWN(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    KVDIRECT_KNOWN(CUDA_ERROR_NOT_READY, "device not ready"),
    KVDIRECT_KNOWN(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    KVDIRECT_KNOWN(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    KVDIRECT_KNOWN(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    KVDIRECT_KNOWN(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    KVDIRECT_KNOWN(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    KVDIRECT_KNOWN(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
};

const Known* find(CUresult result) {
  const auto found = std::ranges::find(known, result, &Known::result);
  return found == known.end() ? nullptr : &*found;
}

CUresult tell(const Known* error, const char* Known::* member, const char** out) {
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  *out = error ? error->*member : nullptr;
  return error ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

const char* error_name(CUresult result) {
  const Known* error = find(result);
  return error ? error->name : "an error without a name";
}

}  // namespace kvdirect::sim

extern "C" {

using namespace kvdirect::sim;

CUresult CUDAAPI cuGetErrorName(CUresult error, const char** name) { return tell(find(error), &Known::name, name); }
CUresult CUDAAPI cuGetErrorString(CUresult error, const char** text) { return tell(find(error), &Known::text, text); }

}  // extern "C"
