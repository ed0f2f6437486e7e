// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "peer.h"

namespace kvdirect {

// One owner's part of a gather.
struct GatherPart {
  Peer* peer = nullptr;  // lives until gather() returns
  std::size_t shard = 0;
  Peer::Request request;
};

// Reads of several owners as one pull, see PullParts. Nothing is started unless all of it is planned. Of none: a pull
// that has ended valid. Throws as Peer::pull does, and Error(peer_lost) naming the shard that is gone.
[[nodiscard]] std::shared_ptr<Pull> gather(const std::vector<GatherPart>& wanted);

}  // namespace kvdirect
