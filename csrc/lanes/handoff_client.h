// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/fd.h"
#include "memory/control_page.h"
#include "memory/shared_memory.h"
#include "pull.h"
#include "session/reader_connection.h"
#include "wire/messages.h"

namespace kvdirect {

// A reader's connection to an owner's handoff socket: the owner's control page, mapped read-only, and the descriptors
// that came with it. The mapping outlives the owner, so whether the owner is there is asked separately.
class HandoffClient {
 public:
  // `others`: how many descriptors the owner hands over besides the control page's. Throws Error(lane), also
  // if the control page is not that of `owner`.
  HandoffClient(const HandoffAccess& access, std::size_t others, std::shared_ptr<const ReaderConnection> owner,
                std::chrono::steady_clock::time_point deadline);

  [[nodiscard]] std::vector<Fd> take_others() noexcept { return std::move(_others); }
  // Throws Error(peer_lost) unless the owner's process still holds the connection over which it handed its memory over.
  void check_owner(const Pull& pull) const;
  [[nodiscard]] std::size_t slots() const noexcept { return _words.size(); }
  // The words of the pull's lease, whose slot is one of slots(). Throws Error(peer_lost) if the engine was closed.
  [[nodiscard]] LeaseCopy lease_words(const Pull& pull) const;

 private:
  Fd _socket;
  std::shared_ptr<const ReaderConnection> _owner;
  std::unique_ptr<MappedMemory> _control_page;
  std::vector<Fd> _others;
  const ControlPage::Head* _head = nullptr;
  std::span<const LeaseWord> _words;
};

}  // namespace kvdirect
