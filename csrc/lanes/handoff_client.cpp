// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/handoff_client.h"

#include <sys/socket.h>

#include <string>
#include <utility>

#include "base/error.h"
#include "net/unix_socket.h"

namespace kvdirect {

HandoffClient::HandoffClient(const HandoffAccess& access, std::size_t others,
                             std::shared_ptr<const ReaderConnection> owner,
                             std::chrono::steady_clock::time_point deadline)
    : _socket(connect_at(access.path)), _owner(std::move(owner)) {
  const auto refuse = [](const std::string& why) { return Error(Errc::lane, why); };
  if (!same_user(_socket.get())) throw refuse("another user listens at the owner's socket " + access.path);
  if (access.words > LeaseTable::max_slots) throw refuse("the owner names more lease slots than there can be");
  const auto sent = send(_socket.get(), access.secret.data(), access.secret.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(access.secret.size())) throw refuse("the owner's socket closed");
  _others = receive_descriptors(_socket.get(), others + 1, deadline);
  _control_page = std::make_unique<MappedMemory>(std::move(_others.front()), ControlPage::bytes(access.words));
  _others.erase(_others.begin());
  const std::byte* control_page = _control_page->bytes().data();
  _head = reinterpret_cast<const ControlPage::Head*>(control_page);
  _words = {reinterpret_cast<const LeaseWord*>(control_page + ControlPage::words_offset), access.words};
  if (!same_secret(_head->nonce, access.nonce) || _head->incarnation.load() != _owner->incarnation) {
    throw refuse("that was somebody else's memory");
  }
}

void HandoffClient::check_owner(const Pull& pull) const {
  char byte = 0;
  // Nothing more is ever sent: what can be read is the end.
  if (recv(_socket.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0) return;
  throw pull.error(Errc::peer_lost, "failed: the owner went away");
}

LeaseCopy HandoffClient::lease_words(const Pull& pull) const {
  const LeaseWord& word = _words[pull.job().lease.slot];
  // The epoch twice: a watermark read before the slot was taken for this lease is another lease's.
  const std::uint64_t before = word.epoch.load(std::memory_order_acquire);
  const std::uint64_t watermark = word.watermark.load(std::memory_order_acquire);
  const std::uint64_t epoch = word.epoch.load(std::memory_order_acquire);
  if (_head->incarnation.load(std::memory_order_acquire) != _owner->incarnation) {
    throw pull.error(Errc::peer_lost, "failed: the owner closed its engine");
  }
  return vouched({before, watermark}, {epoch, watermark});
}

}  // namespace kvdirect
