// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "pull_parts.h"

#include <algorithm>
#include <limits>
#include <optional>

namespace kvdirect {

void PullParts::join(const std::shared_ptr<Pull>& whole) {
  _whole = whole;
  for (const auto& part : _parts) {
    // Weak: the watcher lives in the part.
    part->watch([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->look();
    });
  }
  whole->consist_of(shared_from_this());
  whole->on_abort([weak_self = weak_from_this(), weak_whole = std::weak_ptr<Pull>(whole)] {
    const auto self = weak_self.lock();
    const auto ended = weak_whole.lock();
    if (!self || !ended) return;
    if (const auto why = ended->failure()) self->abort(*why);
  });
}

void PullParts::abort(const Error& why) const {
  for (const auto& part : _parts) part->abort(why);
}

// By whichever thread changed a part: the last one sees all of them.
void PullParts::look() const {
  const auto whole = _whole.lock();
  if (!whole) return;
  for (const auto& part : _parts) {
    const auto why = part->done() ? part->failure() : std::nullopt;
    // Once: the parts that this ends come here too.
    if (why && whole->fail(*why)) abort(*why);
  }
  if (std::ranges::all_of(_parts, [](const auto& part) { return part->done(); })) whole->succeed();
  if (std::ranges::all_of(_parts, [](const auto& part) { return part->quiet(); })) whole->set_quiet();
}

std::uint64_t PullParts::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& part : _parts) sum += part->job().bytes;
  return sum;
}

std::uint64_t PullParts::runs() const {
  std::uint64_t sum = 0;
  for (const auto& part : _parts) sum += part->job().run_count;
  return sum;
}

bool PullParts::help() {
  return std::ranges::any_of(_parts, [](const auto& part) { return part->help(); });
}

PullResult PullParts::result(double seconds) const {
  PullResult whole;
  whole.post_seconds = _parts.empty() ? 0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < _parts.size(); ++i) {
    PullResult part = _parts[i]->result();
    part.shard = _shards[i];
    whole.bytes += part.bytes;
    whole.runs += part.runs;
    whole.post_seconds = std::min(whole.post_seconds, part.post_seconds);
    const auto same = [&part](const PullResult& other) { return other.lane == part.lane; };
    if (std::ranges::none_of(whole.shards, same)) whole.lane += (whole.lane.empty() ? "" : "+") + part.lane;
    whole.shards.push_back(std::move(part));
  }
  whole.seconds = seconds - whole.post_seconds;
  return whole;
}

}  // namespace kvdirect
