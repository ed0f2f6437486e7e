// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/mac.h"
#include "check.h"
#include "wire/admission.h"
#include "wire/descriptor.h"

namespace kvdirect {

namespace {

Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

Bytes bytes_of_hex(const std::string& hex) {
  Bytes bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) bytes.push_back(std::byte(std::stoul(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

// RFC 4231, cases 1 to 4, 6 and 7. (5 is of a truncated one.)
struct Vector {
  Bytes key;
  Bytes data;
  std::string expected;
};

std::vector<Vector> vectors() {
  return {
      {Bytes(20, std::byte{0x0b}), bytes_of("Hi There"),
       "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
      {bytes_of("Jefe"), bytes_of("what do ya want for nothing?"),
       "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
      {Bytes(20, std::byte{0xaa}), Bytes(50, std::byte{0xdd}),
       "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
      {bytes_of_hex("0102030405060708090a0b0c0d0e0f10111213141516171819"), Bytes(50, std::byte{0xcd}),
       "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
      {Bytes(131, std::byte{0xaa}), bytes_of("Test Using Larger Than Block-Size Key - Hash Key First"),
       "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
      {Bytes(131, std::byte{0xaa}),
       bytes_of("This is a test using a larger than block-size key and a larger than block-size data. The key needs to "
                "be hashed before being used by the HMAC algorithm."),
       "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
  };
}

void hold_to_the_vectors(const MacLibrary& library) {
  for (const Vector& vector : vectors()) {
    const Mac mac = library.compute(vector.key, vector.data);
    CHECK(std::ranges::equal(mac, bytes_of_hex(vector.expected)));
  }
  // Nothing to hash, with nothing as key: what "empty" is computed to everywhere else.
  CHECK(std::ranges::equal(library.compute({}, {}),
                           bytes_of_hex("b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")));
}

Descriptor descriptor() {
  Descriptor value;
  value.incarnation = 99;
  value.name = "owner";
  value.admission.key = Bytes(32, std::byte{1});
  value.host = "10.1.2.3";
  value.region_bytes = {4096};
  Component component;
  component.name = "kv";
  component.dtype = "int8";
  component.item_bytes = 1;
  component.axes = {{"block", 1, 4096, {}}, {"byte", 4096, 1, {}}};
  value.map.components = {component};
  return value;
}

}  // namespace

TEST(macs_are_those_of_the_standard_with_each_library) {
  int found = 0;
  for (const char* name : {"libcrypto.so.3", "libcrypto.so.1.1", "libsodium.so.23", "libsodium.so.26"}) {
    try {
      const MacLibrary library = MacLibrary::load(name);
      hold_to_the_vectors(library);
      ++found;
      std::printf("       with %s\n", name);
    } catch (const Error& error) {
      CHECK(error.code() == Errc::config);
    }
  }
  CHECK(found > 0);
  hold_to_the_vectors(mac_library());
}

TEST(a_library_that_computes_none_is_refused_by_name) {
  CHECK_THROWS_WITH(MacLibrary::load("libm.so.6"), Errc::config, "libm.so.6");
  CHECK_THROWS_WITH(MacLibrary::load("/nowhere/libcrypto.so.3"), Errc::config, "/nowhere/libcrypto.so.3");
}

TEST(proofs_differ_in_all_that_they_cover) {
  const Bytes key(32, std::byte{1}), other_key(32, std::byte{2}), hello(40, std::byte{3}), welcome(50, std::byte{4});
  Bytes other_hello = hello;
  other_hello.back() ^= std::byte{1};
  Nonce challenge{}, other_challenge{};
  other_challenge.front() = std::byte{1};
  // The same bytes, divided otherwise.
  const Bytes shorter(hello.begin(), hello.end() - 1);
  std::vector<Mac> proofs{reader_proof(key, hello, challenge),
                          reader_proof(other_key, hello, challenge),
                          reader_proof(key, other_hello, challenge),
                          reader_proof(key, hello, other_challenge),
                          reader_proof(key, shorter, challenge),
                          owner_proof(key, hello, challenge, {}),
                          owner_proof(key, hello, challenge, welcome),
                          owner_proof(key, hello, other_challenge, welcome),
                          owner_proof(key, other_hello, challenge, welcome),
                          owner_proof(other_key, hello, challenge, welcome)};
  for (const char* who : {"a", "b", "ab"}) {
    for (const std::uint64_t end : {1U, 2U}) {
      const Bytes pass = pass_key(key, bytes_of(who), end);
      CHECK(pass.size() == sizeof(Mac) && pass == pass_key(key, bytes_of(who), end));
      std::ranges::copy(pass, proofs.emplace_back().begin());
    }
  }
  std::ranges::sort(proofs);
  CHECK(std::ranges::adjacent_find(proofs) == proofs.end());
}

TEST(a_welcome_opens_only_with_its_key_and_as_it_was_sent) {
  const Bytes key(32, std::byte{1}), hello(40, std::byte{3});
  const Nonce challenge = random_nonce();
  Welcome welcome;
  welcome.nonce = random_token();
  const Bytes body = sealed_welcome(key, hello, challenge, welcome);
  const auto opened = opened_welcome(key, hello, challenge, body);
  CHECK(opened && opened->nonce == welcome.nonce);
  CHECK(!opened_welcome(Bytes(32, std::byte{2}), hello, challenge, body));
  CHECK(!opened_welcome(key, hello, random_nonce(), body));
  for (std::size_t i = 0; i < body.size(); ++i) {
    Bytes changed = body;
    changed[i] ^= std::byte{1};
    CHECK(!opened_welcome(key, hello, challenge, changed));
    CHECK(!opened_welcome(key, hello, challenge, BytesView(body).first(i)));
  }
}

TEST(a_readers_descriptor_has_a_key_of_its_own_and_makes_no_other) {
  const Bytes owners = descriptor().encode();
  const Bytes readers = descriptor_for(owners, bytes_of("decode-1"), 77);
  const Descriptor decoded = Descriptor::decode(readers);
  CHECK(decoded.admission.is_pass() && decoded.admission.identity == bytes_of("decode-1"));
  CHECK(decoded.admission.not_after == 77 && decoded.admission.key.size() == sizeof(Mac));
  CHECK(std::ranges::search(readers, Bytes(8, std::byte{1})).empty());  // no piece of the secret
  CHECK(decoded.map == descriptor().map && decoded.incarnation == 99 && decoded.host == "10.1.2.3");
  CHECK(descriptor_for(owners, bytes_of("decode-2"), 77) != readers);
  CHECK_THROWS_WITH(descriptor_for(readers, bytes_of("decode-2"), 77), Errc::config, "cannot pass it on");
  CHECK_THROWS_WITH(descriptor_for(owners, {}, 77), Errc::config, "use 1 to 64 bytes");
  CHECK_THROWS_WITH(descriptor_for(owners, Bytes(65), 77), Errc::config, "use 1 to 64 bytes");
}

}  // namespace kvdirect
