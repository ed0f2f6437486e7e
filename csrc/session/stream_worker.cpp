// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "session/stream_worker.h"

#include <algorithm>
#include <utility>

namespace kvdirect {

StreamWorker::StreamWorker(const std::string& engine, unsigned number, std::unique_ptr<OwnerSessions> owner,
                           std::unique_ptr<ReaderSessions> reader)
    : _owner(std::move(owner)), _reader(std::move(reader)) {
  EventThread::Callbacks callbacks;
  callbacks.start = [this](EventThread& thread) {
    _owner->start(thread, {});
    _reader->start(thread);
  };
  callbacks.poll = [this] {
    _reader->poll();
    return _owner->poll();
  };
  callbacks.tick = [this](EventThread::Clock::time_point now) {
    return std::min(_owner->tick(now), _reader->tick(now));
  };
  callbacks.stop = [this] {
    _reader->stop();
    _owner->stop();
  };
  callbacks.lingering = [this] { return _reader->lingering(); };
  // Its turns are not counted: the counter is of the thread that renews leases.
  _event_thread = std::make_unique<EventThread>(
      EventThread::Settings{engine, "kvd-stream-" + std::to_string(number), nullptr}, std::move(callbacks));
}

}  // namespace kvdirect
