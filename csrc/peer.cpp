// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "peer.h"

#include <algorithm>
#include <utility>

#include "base/seconds.h"
#include "lanes/message.h"
#include "proven_pull.h"

namespace kvdirect {

namespace {
constexpr auto quiet_bound = std::chrono::seconds(5);
// So few are planned in less time run by run.
constexpr std::size_t few_blocks = 16;
}  // namespace

Peer::Peer(Options options)
    : _options(std::move(options)), _session(std::make_shared<MessageLane>(std::vector{_options.session})) {}

Peer::~Peer() {
  if (_process.here()) close();
}

std::vector<std::string> Peer::lanes() const {
  std::vector<std::string> names;
  for (const auto& lane : _options.lanes) names.emplace_back(lane->name());
  return names;
}

std::string Peer::lane_summary() const {
  const std::string way = _options.lanes.front()->way();
  return lane() + (way.empty() ? "" : ", " + way);
}

Error Peer::closed(const std::string& operation) const {
  return {Errc::closed, "the peer or its engine was closed", {.operation = operation, .peer = _options.name}};
}

std::shared_ptr<Pull> Peer::pull(const Request& request) {
  auto prepared = prepare(request);
  start(prepared);
  return std::move(prepared.pull);
}

Peer::Prepared Peer::prepare(const Request& request) {
  const auto called = Clock::now();
  _process.check("pull");
  const auto fitting = [&](const auto& lane) { return request.lane.empty() || lane->name() == request.lane; };
  const auto lane = std::ranges::find_if(_options.lanes, fitting);
  if (lane == _options.lanes.end()) {
    throw Error(Errc::lane, "lane " + request.lane + " did not prove itself to this peer",
                {.operation = "pull", .peer = _options.name, .hint = "take one of Peer.lanes"});
  }
  auto data = std::make_shared<Pull>(job_for(request, **lane, called), request.prove ? nullptr : _options.counters);
  if (request.prove) return proven(request, **lane, std::move(data));
  return {lane->get(), data, std::move(data)};
}

PullJob Peer::job_for(const Request& request, const Lane& lane, Clock::time_point called) const {
  PullJob job;
  job.lease = request.lease;
  job.watermark = request.watermark;
  job.called = called;
  job.deadline = called + bounded(request.timeout);
  const auto blocks_of = [](const BlockTable& table) { return table.size(); };
  const bool few =
      std::ranges::all_of(request.selection.local, [](std::size_t n) { return n <= few_blocks; }, blocks_of);
  const LaneCapabilities can = lane.capabilities();
  job.permutes = can.permutes && _options.plan->permutes(_options.shard);
  if (job.permutes || (can.groups && !(can.runs && few))) {
    job.plan = _options.plan;
    job.rest = std::make_shared<GroupCursor>(*_options.plan, _options.shard, request.selection);
    // What most pulls have is refused before there is one; the rest of others is planned while this is copied.
    job.groups = job.rest->next(GroupCursor::first_part);
    if (job.rest->done()) job.rest.reset();
  } else {
    job.runs = _options.plan->runs(_options.shard, request.selection);
    if (!few) job.plan = _options.plan;
  }
  if (request.stream) {
    job.after = record_event(*request.stream);
    if (!can.one_sided) {
      throw Error(Errc::config, "lane " + std::string(lane.name()) + " cannot wait for a stream",
                  {.operation = "pull", .peer = _options.name, .hint = "synchronise it first, and leave stream out"});
    }
  }
  job.lane = lane.name();
  job.peer = _options.name;
  job.local = _options.local;
  job.check_runs(job.runs.size());
  return job;
}

Peer::Prepared Peer::proven(const Request& request, Lane& lane, std::shared_ptr<Pull> data) const {
  const auto on_gpu = [](const Region& region) { return region.memory != MemoryKind::host; };
  if (std::ranges::any_of(_options.local->regions, on_gpu)) {
    throw Error(Errc::config, "no digest is made of memory on a GPU",
                {.operation = "pull", .peer = _options.name, .hint = "leave verify out"});
  }
  data->plan_rest();
  Request same = request;
  same.stream.reset();  // the bytes are there by then
  PullJob job = job_for(same, *_session, data->job().called);
  job.lane = "the session";
  job.digest = std::make_shared<Digest>();
  const auto proof = std::make_shared<Pull>(std::move(job), nullptr);
  proof->plan_rest();
  PullJob all;
  all.lease = request.lease;
  all.called = data->job().called;
  all.deadline = data->job().deadline;
  all.lane = lane.name();
  all.peer = _options.name;
  all.local = _options.local;
  auto whole = std::make_shared<Pull>(std::move(all), _options.counters);
  std::make_shared<ProvenPull>(data, proof, _session, _options.pool, _options.counters)->join(whole);
  return {&lane, std::move(whole), std::move(data)};
}

void Peer::start(const Prepared& prepared) {
  {
    const std::lock_guard lock(_mutex);
    if (_closed) throw closed("pull");
    if (!alive()) {
      throw Error(Errc::peer_lost, "the owner went away", {.operation = "pull", .peer = _options.name});
    }
    std::erase_if(_pulls, [](const auto& weak) {
      const auto known = weak.lock();
      return !known || known->quiet();
    });
    _pulls.push_back(prepared.pull);
  }
  prepared.lane->submit(prepared.data);
}

std::shared_ptr<const DeviceEvent> Peer::record_event(std::uint64_t stream) const {
  if (_options.gpu) return _options.gpu->record_event(stream);
  throw Error(Errc::config, "stream was given, and this engine has no memory on a GPU",
              {.operation = "pull", .peer = _options.name, .hint = "leave it out"});
}

template <class Method, class... Arguments>
void Peer::tell(const char* operation, Method method, Arguments... arguments) {
  _process.check(operation);
  if (!_options.session.post(method, arguments...)) throw closed(operation);
}

void Peer::complete(LeaseRef lease, std::uint32_t readers) {
  tell("complete", &ReaderSessions::complete, lease, readers);
}

void Peer::hold(LeaseRef lease, double term, double affirm_within) {
  tell("hold", &ReaderSessions::hold, lease, term, affirm_within);
}

void Peer::affirm(LeaseRef lease) { tell("affirm", &ReaderSessions::affirm, lease); }

void Peer::drop(LeaseRef lease) { tell("drop", &ReaderSessions::drop, lease); }

void Peer::notify(Note note) {
  if (note.body.size() > limits::note) {
    throw Error(
        Errc::config,
        "a note of " + std::to_string(note.body.size()) + " bytes, at most " + std::to_string(limits::note),
        {.operation = "notify", .peer = _options.name, .hint = "lease what is larger, and let the owner pull it"});
  }
  if (!alive()) throw Error(Errc::peer_lost, "the owner went away", {.operation = "notify", .peer = _options.name});
  tell("notify", &ReaderSessions::note, std::move(note));
}

void Peer::close() {
  close(Error(Errc::peer_lost, "the peer was closed here", {.operation = "close", .peer = _options.name}));
}

void Peer::close(const Error& why) {
  _process.check("close");
  _options.session.connection->alive = false;
  std::vector<std::weak_ptr<Pull>> pulls;
  {
    const std::lock_guard lock(_mutex);
    _closed = true;
    pulls = _pulls;
  }
  for (const auto& weak : pulls) {
    if (const auto pull = weak.lock()) pull->abort(pull->error(why.code(), std::string("was stopped: ") + why.what()));
  }
  _options.session.post(&ReaderSessions::leave, why);
  const auto bound = Clock::now() + quiet_bound;
  for (const auto& weak : pulls) {
    if (const auto pull = weak.lock()) pull->wait_quiet_until(bound);
  }
}

}  // namespace kvdirect
