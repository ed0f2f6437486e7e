// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/link.h"

#include <cstring>
#include <optional>

#include "cuda/export.h"

namespace kvdirect {

namespace {

std::optional<CUdevice> find_device(const Token& uuid) {
  int count = 0;
  check_cuda(driver().cuDeviceGetCount(&count), "count the GPUs");
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    CUdevice device = 0;
    check_cuda(driver().cuDeviceGet(&device, ordinal), "find a GPU");
    if (uuid_of(device) == uuid) return device;
  }
  return std::nullopt;
}

}  // namespace

std::string link_between(const PrimaryContext& ours, const Token& theirs) {
  if (uuid_of(ours.device()) == theirs) return "on the same GPU";
  const auto other = find_device(theirs);
  if (!other) return "from a GPU that CUDA_VISIBLE_DEVICES hides from this process";
  const auto ask = [&](CUdevice_P2PAttribute attribute) {
    int value = 0;
    check_cuda(driver().cuDeviceGetP2PAttribute(&value, attribute, ours.device(), *other),
               "ask how two GPUs are linked");
    return value;
  };
  if (ask(CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED) == 0) return "from a GPU that this one has no access to";
  const bool atomics = ask(CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED) != 0;
  return std::string("over ") + (atomics ? "NVLink" : "PCIe") + " (performance rank " +
         std::to_string(ask(CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK)) + ")";
}

}  // namespace kvdirect
