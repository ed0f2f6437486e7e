// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "tally.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace kvdirect::stress {

namespace {

unsigned long long number(const Tally::Count& count) { return count.load(std::memory_order_relaxed); }

void print_codes(const char* title, const std::array<Tally::Count, Tally::codes>& counts) {
  std::printf("%s:", title);
  for (std::size_t code = 0; code < counts.size(); ++code) {
    if (number(counts[code]) > 0) std::printf(" %s %llu", name(static_cast<Errc>(code)), number(counts[code]));
  }
  std::printf("\n");
}

}  // namespace

void Tally::fault(Count& count, const std::string& what) {
  count.fetch_add(1, std::memory_order_relaxed);
  std::fprintf(stderr, "FAULT in process %d: %s\n", getpid(), what.c_str());
}

std::size_t Tally::lane(std::string_view name) {
  return static_cast<std::size_t>(std::ranges::find(lanes, name) - lanes.begin());
}

bool Tally::report() const {
  std::printf("engines %llu, peers %llu, closed by two threads at once %llu, processes killed %llu\n", number(engines),
              number(peers), number(closes), number(kills));
  bool good = true;
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    std::printf("lane %s: proved %llu, valid pulls %llu\n", lanes[lane].data(), number(connected[lane]),
                number(valid[lane]));
    const bool needed = lanes[lane] != "cma" || number(connected[lane]) > 0;  // the kernel may not permit cma
    if (needed && number(valid[lane]) == 0) {
      std::printf("FAULT: no valid pull over %s\n", lanes[lane].data());
      good = false;
    }
  }
  print_codes("pulls that ended otherwise", failed_pulls);
  print_codes("connects that failed", failed_connects);
  std::printf("leases ended: completed %llu, expired %llu, revoked %llu, max_hold %llu\n", number(ended_leases[0]),
              number(ended_leases[1]), number(ended_leases[2]), number(ended_leases[3]));
  std::printf("corrupt %llu, written after quiet %llu, never quiet %llu, never ended %llu, unexpected %llu\n",
              number(corrupt), number(written_after_quiet), number(never_quiet), number(never_ended),
              number(unexpected));
  for (const Count* fault : {&corrupt, &written_after_quiet, &never_quiet, &never_ended, &unexpected}) {
    good = good && number(*fault) == 0;
  }
  return good;
}

}  // namespace kvdirect::stress
