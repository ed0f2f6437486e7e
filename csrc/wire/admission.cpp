// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "wire/admission.h"

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/codec.h"
#include "wire/descriptor.h"

namespace kvdirect {

namespace {

// Each part behind its length, so that no two lists of parts are the same message.
Mac labelled(BytesView key, std::string_view label, std::initializer_list<BytesView> parts) {
  Writer writer;
  writer.string(label);
  for (const BytesView part : parts) writer.sized(part);
  return mac_of(key, writer.bytes());
}

}  // namespace

Bytes pass_key(BytesView secret, BytesView identity, std::uint64_t not_after) {
  Writer end;
  end.u64(not_after);
  const Mac key = labelled(secret, "kvdirect pass", {identity, end.bytes()});
  return {key.begin(), key.end()};
}

Mac reader_proof(BytesView key, BytesView hello, const Nonce& challenge) {
  return labelled(key, "kvdirect reader", {hello, challenge});
}

Mac owner_proof(BytesView key, BytesView hello, const Nonce& challenge, BytesView welcome) {
  return labelled(key, "kvdirect owner", {hello, challenge, welcome});
}

Bytes sealed_welcome(BytesView key, BytesView hello, const Nonce& challenge, const Welcome& welcome) {
  Bytes body = welcome.encode();
  const Mac proof = owner_proof(key, hello, challenge, body);
  body.insert(body.end(), proof.begin(), proof.end());
  return body;
}

std::optional<Welcome> opened_welcome(BytesView key, BytesView hello, const Nonce& challenge, BytesView body) {
  if (body.size() < sizeof(Mac)) return std::nullopt;
  const BytesView welcome = body.first(body.size() - sizeof(Mac));
  if (!same_secret(owner_proof(key, hello, challenge, welcome), body.last(sizeof(Mac)))) return std::nullopt;
  return Welcome::decode(welcome);
}

Bytes descriptor_for(BytesView descriptor, BytesView identity, std::uint64_t not_after) {
  Descriptor owner = Descriptor::decode(descriptor);
  const auto refuse = [&owner](const std::string& why, const std::string& hint) {
    return Error(Errc::config, why, {.operation = "descriptor_for", .peer = owner.name, .hint = hint});
  };
  if (owner.admission.is_pass()) {
    throw refuse("this descriptor is one reader's already, who cannot pass it on",
                 "make it from what Engine.descriptor() gave");
  }
  if (identity.empty() || identity.size() > limits::identity) {
    throw refuse("a reader's identity of " + std::to_string(identity.size()) + " bytes",
                 "use 1 to " + std::to_string(limits::identity) + " bytes");
  }
  owner.admission = {{identity.begin(), identity.end()}, not_after, pass_key(owner.admission.key, identity, not_after)};
  return owner.encode();
}

}  // namespace kvdirect
