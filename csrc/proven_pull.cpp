// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "proven_pull.h"

#include <algorithm>
#include <utility>

#include "test_hooks.h"

namespace kvdirect {

namespace {
// Bytes between two looks at whether anybody still wants to know; others have their turns of the thread then.
constexpr std::uint64_t step_bytes = 4 << 20;
}  // namespace

ProvenPull::ProvenPull(std::shared_ptr<Pull> data, std::shared_ptr<Pull> proof, std::shared_ptr<Lane> session,
                       std::shared_ptr<CopyPool> pool, std::shared_ptr<Counters> counters)
    : _data(std::move(data)),
      _proof(std::move(proof)),
      _session(std::move(session)),
      _pool(std::move(pool)),
      _counters(std::move(counters)),
      _pieces(_proof->job()),
      _unhashed(_pieces.landing()) {}

void ProvenPull::join(const std::shared_ptr<Pull>& whole) {
  _whole = whole;
  for (Pull* const part : {_data.get(), _proof.get()}) {
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
    self->look();
  });
}

PullResult ProvenPull::result(double seconds) const {
  PullResult result = _data->result();
  result.seconds = seconds - result.post_seconds;
  return result;
}

void ProvenPull::abort(const Error& why) const {
  _data->abort(why);
  _proof->abort(why);
}

// The stage that it was in; `to` only from `from`.
ProvenPull::Stage ProvenPull::advance(Stage from, Stage to) {
  const std::lock_guard lock(_mutex);
  return _stage == from ? std::exchange(_stage, to) : _stage;
}

void ProvenPull::look() {
  const auto whole = _whole.lock();
  if (!whole) return;
  if (_data->done() && _data->failure()) {
    fail(*whole, *_data->failure());
  } else if (_proof->done() && _proof->failure()) {
    const Error why = *_proof->failure();
    fail(*whole, whole->error(why.code(), std::string("could not be proven: ") + why.what()));
  } else if (_data->done()) {
    // Whoever ended the whole meanwhile may have been told that nobody looks at the destination any more.
    if (whole->done()) static_cast<void>(advance(Stage::moving, Stage::over));
    if (advance(Stage::moving, Stage::hashing) == Stage::moving) ask(*whole);
    if (_proof->done()) compare(*whole);
  }
  if (!whole->done() || !_data->quiet()) return;
  static_cast<void>(advance(Stage::moving, Stage::over));
  static_cast<void>(advance(Stage::compared, Stage::over));
  if (advance(Stage::over, Stage::over) == Stage::over) whole->set_quiet();
}

void ProvenPull::fail(Pull& whole, const Error& why) const {
  if (whole.fail(why)) abort(why);
}

void ProvenPull::ask(Pull& whole) {
  const Run first = _unhashed.next();
  spoil_landed(_proof->job().local->regions[first.local_region].address + first.local_offset);
  _session->submit(_proof);
  if (_pool->submit(shared_from_this(), CopyPool::Clock::now())) return;
  static_cast<void>(advance(Stage::hashing, Stage::over));
  fail(whole, whole.error(Errc::closed, "could not be proven: the engine was closed"));
}

std::optional<CopyPool::Clock::time_point> ProvenPull::step() noexcept {
  const auto whole = _whole.lock();
  const std::vector<Region>& regions = _proof->job().local->regions;
  const bool wanted = whole && !whole->done();
  for (std::uint64_t hashed = 0; wanted && hashed < step_bytes && !_unhashed.done();) {
    const Run piece = _unhashed.take();
    _hasher.add({regions[piece.local_region].address + piece.local_offset, piece.length});
    hashed += piece.length;
  }
  if (wanted && !_unhashed.done()) return CopyPool::Clock::now();
  static_cast<void>(advance(Stage::hashing, wanted ? Stage::compared : Stage::over));
  look();
  return std::nullopt;
}

void ProvenPull::compare(Pull& whole) {
  if (advance(Stage::compared, Stage::over) != Stage::compared) return;
  const Digest ours = _hasher.digest();
  const Digest& theirs = *_proof->job().digest;
  if (ours == theirs) {
    ++_counters->pulls_proven;
    whole.succeed();
    return;
  }
  ++_counters->pulls_disproved;
  whole.fail(whole.error(Errc::corrupt, "brought other bytes than its owner has",
                         "XXH3-128 " + hex(theirs) + " at the owner, " + hex(ours) + " here",
                         "something on the way changes bytes: use none of them, and try another lane or network card"));
}

}  // namespace kvdirect
