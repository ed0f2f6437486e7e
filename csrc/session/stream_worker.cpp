// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "session/stream_worker.h"

#include <algorithm>
#include <utility>

namespace kvdirect {

StreamWorker::StreamWorker(const std::string& engine, unsigned number, std::unique_ptr<OwnerSessions> owner,
                           std::unique_ptr<ReaderSessions> reader)
    : _owner(std::move(owner)), _reader(std::move(reader)) {
  Progress::Duties duties;
  duties.start = [this](Progress& progress) {
    _owner->start(progress, {});
    _reader->start(progress);
  };
  duties.pump = [this] {
    _reader->pump();
    return _owner->pump();
  };
  duties.tick = [this](Progress::Clock::time_point now) { return std::min(_owner->tick(now), _reader->tick(now)); };
  duties.stop = [this] {
    _reader->stop();
    _owner->stop();
  };
  duties.parting = [this] { return _reader->parting(); };
  // Its turns are not counted: the counter is of the thread that renews leases.
  _progress = std::make_unique<Progress>(Progress::Settings{engine, "kvd-stream-" + std::to_string(number), nullptr},
                                         std::move(duties));
}

}  // namespace kvdirect
