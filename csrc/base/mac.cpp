// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "base/mac.h"

#include <dlfcn.h>

#include <cstddef>
#include <utility>

#include "base/error.h"

namespace kvdirect {

namespace {

constexpr std::array<const char*, 4> known_libraries{"libcrypto.so.3", "libcrypto.so.1.1", "libsodium.so.23",
                                                     "libsodium.so.26"};

std::string last_dl_error() {
  const char* text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

template <typename Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

// Never null: OpenSSL takes that for "the one before".
const unsigned char* octets(std::span<const std::byte> bytes) {
  static constexpr unsigned char nothing = 0;
  return bytes.empty() ? &nothing : reinterpret_cast<const unsigned char*>(bytes.data());
}

unsigned char* octets(Mac& mac) { return reinterpret_cast<unsigned char*>(mac.data()); }

}  // namespace

MacLibrary MacLibrary::load(const std::string& name) {
  const auto cannot = [&name](const std::string& why) {
    return Error(Errc::config, name + " cannot be used", {.operation = "load HMAC-SHA256", .status = why});
  };
  // Local: another release in this process (Python's ssl, NIXL's, ...) is not to be bound to this one, nor this to it.
  // Never unloaded, so that a thread may be in it at any time.
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw cannot(last_dl_error());
  const auto sha256 = symbol<const void*()>(library, "EVP_sha256");
  const auto hmac = symbol<unsigned char*(const void*, const void*, int, const unsigned char*, std::size_t,
                                          unsigned char*, unsigned*)>(library, "HMAC");
  if (sha256 != nullptr && hmac != nullptr) {
    return {name, [sha256, hmac](auto key, auto message, Mac& mac) {
              unsigned length = 0;
              return hmac(sha256(), octets(key), static_cast<int>(key.size()), octets(message), message.size(),
                          octets(mac), &length) != nullptr &&
                     length == mac.size();
            }};
  }
  const auto initialise = symbol<int()>(library, "sodium_init");
  const auto bytes = symbol<std::size_t()>(library, "crypto_auth_hmacsha256_statebytes");
  const auto begin = symbol<int(void*, const unsigned char*, std::size_t)>(library, "crypto_auth_hmacsha256_init");
  const auto update =
      symbol<int(void*, const unsigned char*, unsigned long long)>(library, "crypto_auth_hmacsha256_update");
  const auto finish = symbol<int(void*, unsigned char*)>(library, "crypto_auth_hmacsha256_final");
  if (initialise == nullptr || bytes == nullptr || begin == nullptr || update == nullptr || finish == nullptr) {
    throw cannot("it lacks the functions of libcrypto and those of libsodium");
  }
  if (initialise() < 0) throw cannot("sodium_init failed");
  return {name,
          [words = bytes() / sizeof(std::max_align_t) + 1, begin, update, finish](auto key, auto message, Mac& mac) {
            std::vector<std::max_align_t> state(words);
            return begin(state.data(), octets(key), key.size()) == 0 &&
                   update(state.data(), octets(message), message.size()) == 0 && finish(state.data(), octets(mac)) == 0;
          }};
}

MacLibrary MacLibrary::find(const std::vector<std::string>& more) {
  std::vector<std::string> names(known_libraries.begin(), known_libraries.end());
  names.insert(names.end(), more.begin(), more.end());
  std::string tried;
  for (const std::string& name : names) {
    try {
      return load(name);
    } catch (const Error& error) {
      tried += (tried.empty() ? "" : "; ") + error.context().status;
    }
  }
  throw Error(Errc::config, "no library that computes HMAC-SHA256 was found, and readers cannot be told from strangers",
              {.operation = "make an engine",
               .status = tried,
               .hint = "Install OpenSSL's libcrypto (libssl3, openssl-libs) or libsodium (libsodium23, or "
                       "`pip install pyzmq`, whose wheel has one)"});
}

Mac MacLibrary::compute(std::span<const std::byte> key, std::span<const std::byte> message) const {
  Mac mac{};
  if (_compute(key, message, mac)) return mac;
  throw Error(Errc::transport, _name + " does not compute HMAC-SHA256",
              {.operation = "prove admission", .hint = "a provider of OpenSSL may forbid it"});
}

const MacLibrary& mac_library(const std::vector<std::string>& more) {
  // Where this throws, the next call tries again. Never destroyed: threads outlive the end of main().
  static const MacLibrary& library = *new MacLibrary(MacLibrary::find(more));
  return library;
}

}  // namespace kvdirect
