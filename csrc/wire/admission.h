// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdint>
#include <optional>

#include "base/mac.h"
#include "wire/messages.h"

// How reader and owner prove to each other that they have the same key, which itself is never sent. Each label keeps
// a proof from being taken for another.
namespace kvdirect {

// The key of a reader's pass, which an owner works out again from its own secret.
[[nodiscard]] Bytes pass_key(BytesView secret, BytesView identity, std::uint64_t not_after);

// `hello`: as it was sent; all of it is proved, the reader's nonce and the pass among it.
[[nodiscard]] Mac reader_proof(BytesView key, BytesView hello, const Nonce& challenge);
// `welcome`: the owner's answer, of which no byte can be changed on the way.
[[nodiscard]] Mac owner_proof(BytesView key, BytesView hello, const Nonce& challenge, BytesView welcome);

// The welcome with the owner's proof behind it.
[[nodiscard]] Bytes sealed_welcome(BytesView key, BytesView hello, const Nonce& challenge, const Welcome& welcome);
// The other way round; nullopt where the proof is not that of who has the key. Throws Error(codec).
[[nodiscard]] std::optional<Welcome> opened_welcome(BytesView key, BytesView hello, const Nonce& challenge,
                                                    BytesView body);

// The owner's descriptor as one reader's, good until then. Throws Error(config) if it is a reader's already.
[[nodiscard]] Bytes descriptor_for(BytesView descriptor, BytesView identity, std::uint64_t not_after);

}  // namespace kvdirect
