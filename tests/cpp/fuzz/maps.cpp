// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <limits>

#include "planner/plan.h"
#include "planner/tensor_map.h"
#include "target.h"

namespace kvdirect {

namespace {

constexpr std::uint64_t region_bytes[] = {1 << 20, 1 << 16};
constexpr std::uint64_t heap_per_byte = 64;
constexpr std::uint64_t heap_at_least = 16 << 10;

TensorMap decoded(BytesView bytes) {
  const std::uint64_t before = fuzz::allocated();
  TensorMap map = TensorMap::decode(bytes);
  HOLDS(fuzz::allocated() - before <= heap_per_byte * bytes.size() + heap_at_least);
  HOLDS(std::ranges::equal(map.encode(), bytes));
  map.validate(region_bytes);
  return map;
}

void inside(std::uint32_t region, std::uint64_t offset, std::uint64_t length) {
  HOLDS(region < std::size(region_bytes));
  HOLDS(length > 0 && offset <= region_bytes[region] && length <= region_bytes[region] - offset);
}

std::vector<std::int64_t> table(fuzz::Input& input) {
  std::vector<std::int64_t> ids(input.below(16));
  for (auto& id : ids) id = static_cast<std::int64_t>(input.below(32)) - 1;
  return ids;
}

// No byte is written twice, and none outside; a second way of planning says the same.
void check(const Plan& plan, const Selection& selection) {
  const std::vector<Run> runs = plan.runs(0, selection);
  std::uint64_t bytes = 0;
  std::vector<Extent> written;
  for (const Run& run : runs) {
    inside(run.remote_region, run.remote_offset, run.length);
    inside(run.local_region, run.local_offset, run.length);
    written.push_back({run.local_region, run.local_offset, run.length});
    bytes += run.length;
  }
  std::ranges::sort(written, {}, [](const Extent& extent) { return std::pair(extent.region, extent.offset); });
  for (std::size_t i = 1; i < written.size(); ++i) {
    const Extent& before = written[i - 1];
    HOLDS(before.region != written[i].region || before.offset + before.length <= written[i].offset);
  }
  std::uint64_t again = 0;
  for (const RunGroup& group : plan.groups(0, selection)) {
    again += group.bytes();
    for (const RunGroup::Base& base : group.bases) {
      for (const Run& run : group.pattern) {
        inside(run.remote_region, base.remote + run.remote_offset, run.length);
        inside(run.local_region, base.local + run.local_offset, run.length);
      }
    }
  }
  HOLDS(again == bytes);
}

}  // namespace

// Two maps, each behind its length, and what of one the other wants.
FUZZ_TARGET(maps) {
  fuzz::Input parts(input);
  const BytesView first = parts.take(parts.number(2));
  const BytesView second = parts.take(parts.number(2));
  try {
    const TensorMap local = decoded(first);
    const std::vector<TensorMap> remotes{second.empty() ? local : decoded(second)};
    const Plan plan(local, remotes);
    static_cast<void>(plan.summary());
    std::vector<std::vector<std::int64_t>> tables;
    for (int i = 0; i < 4; ++i) tables.push_back(table(parts));
    const std::uint64_t start = parts.below(64);
    const Selection selection{{tables[0], tables[1]}, {tables[2], tables[3]}, start, start + 1 + parts.below(64)};
    check(plan, selection);
    for (const Extent& extent : block_extents(local, selection.local))
      inside(extent.region, extent.offset, extent.length);
  } catch (const Error& error) {
    HOLDS(error.code() == Errc::codec || error.code() == Errc::plan || error.code() == Errc::mismatch);
  }
}

}  // namespace kvdirect
