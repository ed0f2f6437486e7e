// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/non_copyable.h"
#include "lease.h"
#include "memory/shared_memory.h"
#include "wire/messages.h"

namespace kvdirect {

// What an owner shows to readers that look into its memory: who it is, a nonce, and its lease words. In shared memory
// of its own where it can be, so that a reader can be given this and nothing else. The layout is part of the wire
// protocol.
class ControlPage : NonCopyable {
 public:
  struct Head {
    std::atomic<std::uint64_t> incarnation{0};  // 0 once the engine is closed
    Token nonce{};                              // tells this memory from any other
  };
  // Where the words begin, in bytes from the head.
  static constexpr std::size_t words_offset = 4096;
  [[nodiscard]] static constexpr std::size_t bytes(std::uint32_t slots) noexcept {
    return words_offset + sizeof(LeaseWord) * std::size_t{slots};
  }

  // `shared`: in shared memory if the kernel gives some.
  ControlPage(std::uint64_t incarnation, std::uint32_t slots, bool shared);

  [[nodiscard]] Head& head() const noexcept { return *_head; }
  [[nodiscard]] const std::shared_ptr<LeaseWord[]>& words() const noexcept { return _words; }
  // Null if it is not shared.
  [[nodiscard]] const std::shared_ptr<SharedMemory>& memory() const noexcept { return _memory; }
  // Why it is not, if it was to be.
  [[nodiscard]] const std::string& why_not_shared() const noexcept { return _why_not_shared; }

 private:
  std::shared_ptr<SharedMemory> _memory;
  std::string _why_not_shared;
  std::shared_ptr<std::byte> _bytes;
  Head* _head = nullptr;
  std::shared_ptr<LeaseWord[]> _words;
};
static_assert(sizeof(ControlPage::Head) <= ControlPage::words_offset);

}  // namespace kvdirect
