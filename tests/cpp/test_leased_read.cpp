// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "check.h"
#include "interleavings.h"
#include "lanes/leased_read.h"

// The model of section "A leased read" in docs/protocol.md: every order in which what a reader's threads do, and what
// can happen to its owner meanwhile, can follow each other.
namespace kvdirect {
namespace {

using namespace std::chrono_literals;

constexpr LeaseRef lease{3, 77};
constexpr std::size_t blocks = 2;

// What lies in a block, on either side.
enum class Bytes : std::uint8_t { unfinished, promised, another };

struct Owner {
  std::uint64_t epoch = lease.epoch;
  std::uint64_t watermark = 0;
  std::array<Bytes, blocks> memory{};
  bool lost = false;
};

struct Reader {
  std::array<Bytes, blocks> memory{};
  std::vector<std::size_t> under_way;  // blocks that a device is still to read
  std::size_t next = 0;
};

// A lane to that owner. Each of its calls is a place where everything else may happen first.
class ModelLane final : public LaneRead {
 public:
  ModelLane(Interleaving& order, Owner& owner, Reader& reader, const Pull& pull, bool device)
      : _order(order), _owner(owner), _reader(reader), _pull(pull), _device(device) {}

  const Pace& pace() const noexcept override {
    static constexpr Pace each_block{.longest_wait = 1ms,
                                     .wait_per_read = 0ms,
                                     .poll_interval = 1ms,
                                     .drain_time = 1h,
                                     .step_bytes = 1,
                                     .move_bytes = 1};
    return each_block;
  }
  std::size_t parts() const noexcept override { return _device ? 1 : blocks; }
  void check_owner() override {
    if (_owner.lost) throw _pull.error(Errc::peer_lost, "failed: the owner went away");
  }
  std::optional<LeaseCopy> words() override {
    _order.point();
    check_owner();
    return LeaseCopy{_owner.epoch, _owner.watermark};
  }
  bool more() const override { return _reader.next < blocks; }
  std::uint64_t move(std::uint64_t /*most*/) override {
    if (!more()) return 0;
    const std::size_t block = _reader.next++;
    if (_device) {
      _reader.under_way.push_back(block);
      return 1;
    }
    _order.point();
    CHECK(!_pull.quiet());
    _reader.memory[block] = _owner.memory[block];
    return 1;
  }
  bool settled() override { return _reader.under_way.empty(); }
  void fence() override {}
  bool give_up() noexcept override { return true; }

 private:
  Interleaving& _order;
  Owner& _owner;
  Reader& _reader;
  const Pull& _pull;
  const bool _device;
};

// A device that cannot order what it wrote.
class WithoutFence final : public LaneRead {
 public:
  const Pace& pace() const noexcept override { return _pace; }
  void check_owner() override {}
  std::optional<LeaseCopy> words() override { return LeaseCopy{lease.epoch, 1}; }
  bool more() const override { return !_moved; }
  std::uint64_t move(std::uint64_t /*most*/) override {
    _moved = true;
    return blocks;
  }
  bool settled() override { return true; }
  void fence() override { throw Error(Errc::transport, "the device failed"); }
  bool give_up() noexcept override { return false; }

 private:
  const Pace _pace{.step_bytes = blocks, .move_bytes = blocks};
  bool _moved = false;
};

enum class Trouble : std::uint8_t { none, deadline, abort, lost };
// What the lease's word says once it has ended: nothing, or what is promised to others by then.
enum class End : std::uint8_t { none, revoked, slot_reused };

std::shared_ptr<Pull> pull_of_all(Clock::time_point deadline, const std::shared_ptr<Counters>& counters) {
  PullJob job;
  job.lease = lease;
  job.watermark = 1;
  job.deadline = deadline;
  job.runs = {{.length = 1}, {.remote_offset = 8, .local_offset = 8, .length = 1}};
  return std::make_shared<Pull>(std::move(job), counters);
}

// One order of events, which `order` has chosen.
void run_once(Interleaving& order, Trouble trouble, End end, bool device) {
  Owner owner;
  Reader reader;
  Clock::time_point now{};
  const auto deadline = now + 1h;
  const auto counters = std::make_shared<Counters>();
  const auto pull = pull_of_all(deadline, counters);
  bool asked_for_help = false;
  Helpers helpers{blocks, [&](const std::shared_ptr<LeasedRead>&) { return asked_for_help = true; }};
  const auto read = std::make_shared<LeasedRead>(pull, std::make_unique<ModelLane>(order, owner, reader, *pull, device),
                                                 lease.slot + 1, std::move(helpers));

  const auto step = [&]() -> std::optional<Clock::time_point> { return read->step(now); };
  const auto wake = [&](Clock::time_point when) { now = std::max(now, when); };
  order.add_thread([] { return true; }, step, wake);
  order.add_thread([&] { return asked_for_help; }, step, wake);
  order.add_event([] { return true; },
                  [&] {
                    owner.memory.fill(Bytes::promised);
                    owner.watermark = 1;
                  });
  if (end != End::none) {
    const auto ended = std::make_shared<bool>(false);
    order.add_event([] { return true; },
                    [&owner, ended, end] {
                      owner.epoch = end == End::revoked ? 0 : lease.epoch + 1;
                      *ended = true;
                    });
    order.add_event([ended] { return *ended; }, [&] { owner.memory.fill(Bytes::another); });
  }
  if (trouble == Trouble::deadline) order.add_event([] { return true; }, [&] { now = deadline; });
  if (trouble == Trouble::abort) order.add_event([] { return true; }, [&] { pull->cancel(); });
  if (trouble == Trouble::lost) order.add_event([] { return true; }, [&] { owner.lost = true; });
  for (std::size_t i = 0; device && i < blocks; ++i) {
    order.add_event([&reader, i] { return reader.under_way.size() > 0 && reader.next > i; },
                    [&] {
                      CHECK(!pull->quiet());
                      const std::size_t block = reader.under_way.front();
                      reader.memory[block] = owner.memory[block];
                      reader.under_way.erase(reader.under_way.begin());
                    });
  }
  order.run();

  CHECK(pull->done());
  CHECK(pull->quiet());
  CHECK(reader.under_way.empty());
  CHECK(counters->pulls_ok + counters->pulls_failed == 1);
  const bool valid = counters->pulls_ok == 1;
  if (valid) CHECK(std::ranges::all_of(reader.memory, [](Bytes bytes) { return bytes == Bytes::promised; }));
  if (trouble == Trouble::none && end == End::none) CHECK(valid);
}

void run_all(Trouble trouble, End end, bool device) {
  Interleaving order;
  do {
    run_once(order, trouble, end, device);
  } while (order.next());
  CHECK(order.runs() > 1);
}

constexpr std::array troubles{Trouble::none, Trouble::deadline, Trouble::abort, Trouble::lost};
constexpr std::array ends{End::none, End::revoked, End::slot_reused};

}  // namespace

TEST(no_order_of_events_lets_two_threads_accept_what_was_not_promised) {
  for (const Trouble trouble : troubles) {
    for (const End end : ends) run_all(trouble, end, false);
  }
}

TEST(no_order_of_events_lets_a_device_accept_what_was_not_promised) {
  for (const Trouble trouble : troubles) {
    for (const End end : ends) run_all(trouble, end, true);
  }
}

TEST(what_cannot_be_ordered_before_the_last_look_is_not_valid) {
  const auto counters = std::make_shared<Counters>();
  const auto pull = pull_of_all(Clock::time_point{} + 1h, counters);
  LeasedRead read(pull, std::make_unique<WithoutFence>(), lease.slot + 1);
  CHECK(!read.step(Clock::time_point{}));
  CHECK(pull->quiet());
  CHECK(counters->pulls_failed == 1);
}

}  // namespace kvdirect
