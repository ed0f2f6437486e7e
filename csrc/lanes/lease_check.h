// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>

#include "pull.h"

// What the readers of lease words make of them.
namespace kvdirect {

// Throws Error(lease_expired) for a slot that the owner's table of `slots` leases does not have.
inline void check_slot(const Pull& pull, std::size_t slots) {
  if (pull.job().lease.slot < slots) return;
  throw pull.error(Errc::lease_expired, "names a lease slot the owner does not have");
}

// The positions that are final. Throws Error(lease_expired) unless the words are those of the pull's lease.
[[nodiscard]] inline std::uint64_t check_lease(const Pull& pull, LeaseCopy words) {
  if (words.epoch == pull.job().lease.epoch) return words.watermark;
  throw pull.error(Errc::lease_expired, "failed: the owner no longer promises these blocks", {},
                   "compute them locally, or ask the owner again");
}

}  // namespace kvdirect
