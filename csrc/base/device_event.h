// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include "base/non_copyable.h"

namespace kvdirect {

// Everything that a stream of a device had been given at some moment. Thread-safe.
class DeviceEvent : NonCopyable {
 public:
  virtual ~DeviceEvent() = default;

  // Whether the device has done it. Throws Error(transport) if the device failed, and then does nothing any more.
  [[nodiscard]] virtual bool passed() const = 0;
};

}  // namespace kvdirect
