// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <iterator>
#include <type_traits>

#include "target.h"
#include "wire/descriptor.h"

namespace kvdirect {

namespace {

// What a decoder may ask the heap for: structs are larger than their bytes, and errors have texts.
constexpr std::uint64_t heap_per_byte = 64;
constexpr std::uint64_t heap_at_least = 16 << 10;

// Whatever decodes means the same when it is encoded and decoded again, and what does not is refused.
template <typename Message>
void decode(BytesView bytes) {
  const std::uint64_t before = fuzz::allocated();
  Bytes once;
  try {
    const Message message = Message::decode(bytes);
    HOLDS(fuzz::allocated() - before <= heap_per_byte * bytes.size() + heap_at_least);
    once = message.encode();
  } catch (const Error& error) {
    HOLDS(fuzz::allocated() - before <= heap_per_byte * bytes.size() + heap_at_least);
    HOLDS(error.code() == Errc::codec || error.code() == Errc::mismatch || error.code() == Errc::plan);
    return;
  }
  if constexpr (requires(const Message& message) { message.version; }) {
    // Of another version's only the beginning is read.
    if (Message::decode(bytes).version != protocol_version) return;
  }
  HOLDS(Message::decode(once).encode() == once);
  // Nothing is left out, but for a term that is too long to count.
  HOLDS(once.size() == bytes.size());
  if constexpr (!std::is_same_v<Message, Renew>) HOLDS(std::ranges::equal(once, bytes));
}

constexpr void (*decoders[])(BytesView) = {
    decode<DataHeader>,  decode<Hello>,   decode<Welcome>, decode<Refuse>, decode<Proof>,
    decode<PullRequest>, decode<Verdict>, decode<Cancel>,  decode<Renew>,  decode<Complete>,
    decode<Challenge>,   decode<Answer>,  decode<Proven>,  decode<Note>,
};

// As in a descriptor's last eight bytes.
std::uint64_t checksum(BytesView bytes) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const std::byte byte : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3U;
  return hash;
}

}  // namespace

FUZZ_TARGET(messages) {
  fuzz::Input parts(input);
  const auto which = static_cast<std::size_t>(parts.below(std::size(decoders)));
  decoders[which](parts.rest());
}

// As it is, and with its checksum put right, as by somebody who means to be believed.
FUZZ_TARGET(descriptor) {
  decode<Descriptor>(input);
  if (input.size() < 8) return;
  Bytes sealed(input.begin(), input.end() - 8);
  const std::uint64_t sum = checksum(sealed);
  for (unsigned i = 0; i < 8; ++i) sealed.push_back(static_cast<std::byte>(sum >> (8 * i) & 0xffU));
  decode<Descriptor>(sealed);
}

}  // namespace kvdirect
