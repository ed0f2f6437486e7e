// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <string>

#include "cuda/handles.h"
#include "wire/messages.h"

namespace kvdirect {

// How a GPU reaches the one with this UUID, for people, as far as the driver says: "over NVLink (performance rank 0)".
// It does not say NVLink by name but that atomics work over the link, which PCIe does not do; nor how fast it is, nor
// what lies in between.
[[nodiscard]] std::string link_between(const PrimaryContext& ours, const Token& theirs);

}  // namespace kvdirect
