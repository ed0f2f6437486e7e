// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "lanes/copy_pool.h"
#include "pull.h"

namespace kvdirect {

// A part of a pull: so many bytes from this place in its run list on.
struct Chunk {
  std::size_t run = 0;
  std::uint64_t inside = 0;
  std::uint64_t bytes = 0;
};

// How this process gets at the memory of an owner on the same host. Used by several threads at once.
class CopySource {
 public:
  CopySource() = default;
  CopySource(const CopySource&) = delete;
  CopySource& operator=(const CopySource&) = delete;
  virtual ~CopySource() = default;

  // Throws Error(peer_lost) if the owner is known to be gone.
  virtual void check_owner(const Pull& pull) const = 0;
  // The positions that are final. Throws Error(peer_lost, lease_expired, transport) unless the pull's lease holds now.
  [[nodiscard]] virtual std::uint64_t lease_watermark(const Pull& pull) const = 0;
  // Throws Error(peer_lost, transport).
  virtual void copy(const Pull& pull, Chunk chunk) const = 0;
};

// Does a small pull here, in the calling thread, and hands a large one to as many as `parts` threads of `pool`.
void copy_pull(const std::shared_ptr<Pull>& pull, const std::shared_ptr<const CopySource>& source,
               const std::shared_ptr<CopyPool>& pool, unsigned parts);

}  // namespace kvdirect
