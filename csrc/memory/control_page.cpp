// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "memory/control_page.h"

#include <algorithm>
#include <new>

#include "base/error.h"
#include "base/random.h"

namespace kvdirect {

namespace {

constexpr auto alignment = std::align_val_t{alignof(ControlPage::Head)};

std::shared_ptr<std::byte> own_bytes(std::size_t bytes) {
  auto* first = static_cast<std::byte*>(::operator new(bytes, alignment));
  return {first, [](std::byte* raw) { ::operator delete(raw, alignment); }};
}

}  // namespace

ControlPage::ControlPage(std::uint64_t incarnation, std::uint32_t slots, bool shared) {
  // The lease table refuses more than these.
  slots = std::min(slots, LeaseTable::max_slots);
  try {
    if (shared) _memory = std::make_shared<SharedMemory>(bytes(slots));
    if (_memory && !_memory->sealed()) {
      _memory.reset();
      _why_not_shared = no_seals;
    }
  } catch (const Error& error) {
    _why_not_shared = error.what();
  }
  _bytes = _memory ? std::shared_ptr<std::byte>(_memory, _memory->data()) : own_bytes(bytes(slots));
  _head = new (_bytes.get()) Head;
  fill_random(_head->nonce);
  auto* first = reinterpret_cast<LeaseWord*>(_bytes.get() + words_offset);
  for (std::uint32_t slot = 0; slot < slots; ++slot) new (first + slot) LeaseWord;
  _words = std::shared_ptr<LeaseWord[]>(_bytes, first);
  _head->incarnation.store(incarnation, std::memory_order_release);
}

}  // namespace kvdirect
