// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <string>

#include "net/event_thread.h"
#include "session/owner.h"
#include "session/reader.h"

namespace kvdirect {

// A further thread of an engine. It carries one more connection of each session, so that several processors can move
// the bytes of a large pull; the control thread carries the first connection, and all else that is said.
class StreamWorker {
 public:
  // `number`: of the sessions' streams that it carries. Throws what kept its thread from starting.
  StreamWorker(const std::string& engine, unsigned number, std::unique_ptr<OwnerSessions> owner,
               std::unique_ptr<ReaderSessions> reader);

  [[nodiscard]] const std::shared_ptr<CommandQueue>& commands() const noexcept { return _event_thread->commands(); }
  [[nodiscard]] bool failed() const noexcept { return _event_thread->failed(); }
  // Touched only by commands.
  [[nodiscard]] OwnerSessions* owner() const noexcept { return _owner.get(); }
  [[nodiscard]] ReaderSessions* reader() const noexcept { return _reader.get(); }
  // Lets its thread wind down, without waiting for it.
  void ask_to_stop() noexcept { _event_thread->ask_to_stop(); }
  // Joins the thread. Bounded.
  void stop() { _event_thread->stop(); }

 private:
  std::unique_ptr<OwnerSessions> _owner;
  std::unique_ptr<ReaderSessions> _reader;
  std::unique_ptr<EventThread> _event_thread;
};

}  // namespace kvdirect
