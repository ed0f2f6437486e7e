// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "session/stream_worker.h"

#include <algorithm>
#include <utility>

namespace kvdirect {

StreamWorker::StreamWorker(const std::string& engine, unsigned number, std::unique_ptr<Serving> serving,
                           std::unique_ptr<Reading> reading)
    : _serving(std::move(serving)), _reading(std::move(reading)) {
  Progress::Duties duties;
  duties.start = [this](Progress& progress) {
    _serving->start(progress, {});
    _reading->start(progress);
  };
  duties.pump = [this] {
    _reading->pump();
    return _serving->pump();
  };
  duties.tick = [this](Progress::Clock::time_point now) { return std::min(_serving->tick(now), _reading->tick(now)); };
  duties.stop = [this] {
    _reading->stop();
    _serving->stop();
  };
  duties.parting = [this] { return _reading->parting(); };
  // Its turns are not counted: the counter is of the thread that renews leases.
  _progress = std::make_unique<Progress>(Progress::Settings{engine, "kvd-stream-" + std::to_string(number), nullptr},
                                         std::move(duties));
}

}  // namespace kvdirect
