// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "extents.h"

#include <algorithm>
#include <string>

#include "call.h"

namespace kvdirect::sim {

namespace {

void sort(std::vector<Extent>& extents) { std::ranges::sort(extents, {}, &Extent::start); }

}  // namespace

void check_independent(std::vector<Extent> sources, std::vector<Extent> targets, const char* who) {
  sort(sources);
  sort(targets);
  for (std::size_t i = 1; i < targets.size(); ++i) {
    if (targets[i - 1].start + targets[i - 1].size > targets[i].start) {
      undefined(std::string(who) + " writes the bytes at " + hex(targets[i].start) + " twice");
    }
  }
  auto target = targets.begin();
  for (const Extent& source : sources) {
    // Targets do not overlap, so that they are in the order of their ends too.
    while (target != targets.end() && target->start + target->size <= source.start) ++target;
    if (target != targets.end() && target->start < source.start + source.size) {
      undefined(std::string(who) + " reads the bytes at " + hex(std::max(target->start, source.start)) +
                " and writes them");
    }
  }
}

}  // namespace kvdirect::sim
