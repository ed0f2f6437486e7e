// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <chrono>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "lease.h"

namespace kvdirect {

namespace {
using Seconds = LeaseTable::Seconds;
}

TEST(ranges_are_kept_as_such) {
  LeaseTable table(4);
  const LeaseRef lease = table.reserve().value();
  CHECK(!table.ranges(lease));
  table.grant(lease, {{7}}, {{}, {{0, 1'000'000'000}}});
  table.grant(lease, {}, {{{3, 5}}, {{5, 6}}});
  CHECK((table.blocks(lease) == LeaseTable::Tables{{7}}));
  CHECK((table.ranges(lease) == LeaseTable::Ranges{{{3, 5}}, {{0, 1'000'000'000}, {5, 6}}}));
  const std::vector<std::size_t> known{0, 1};
  CHECK((table.ranges(lease, known) == LeaseTable::Ranges{{{3, 5}}, {{5, 6}}}));
  CHECK_THROWS_WITH(table.grant(lease, {}, {{}, {{5, 5}}}), Errc::config, "blocks from 5 up to 5 are no range");
  CHECK_THROWS(table.grant_or_reserve(std::nullopt, {}, {{{5, 4}}}), Errc::config);
  CHECK(table.revoke(lease));
  CHECK(!table.ranges(lease));
}

TEST(a_lease_whose_term_never_began_ends_by_its_owner_only) {
  LeaseTable table(4, Seconds{0.001});
  const LeaseRef lease = table.grant_or_reserve(std::nullopt, {{1}}).value();
  table.raise_watermark(lease, 1);
  CHECK(table.complete(lease, 1));
  CHECK(table.renew(lease, Seconds{0}));
  CHECK(!table.expire(LeaseTable::Clock::now() + std::chrono::hours(10'000)));
  CHECK(table.verdict(lease, 1) == LeaseVerdict::valid);
  CHECK(table.revoke(lease));
}

}  // namespace kvdirect
