// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "session/descriptor_share.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>

namespace kvdirect {

namespace {

constexpr std::size_t max_unadmitted = 256;
constexpr std::size_t max_connections = 4096;

std::atomic<std::size_t> engines{0};
std::atomic<std::size_t> taken_in_all{0};

// May be changed while the process runs.
std::size_t limit() noexcept {
  rlimit now{};
  const bool known = getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur != RLIM_INFINITY;
  return known ? static_cast<std::size_t>(now.rlim_cur) : std::size_t{1} << 20;
}

// One engine's part of that share of the limit.
std::size_t part(std::size_t share, std::size_t most) noexcept {
  return std::clamp<std::size_t>(limit() / share / std::max<std::size_t>(engines, 1), 1, most);
}

std::size_t sessions() noexcept { return part(2, max_connections); }

}  // namespace

DescriptorShare::DescriptorShare() noexcept { ++engines; }

DescriptorShare::~DescriptorShare() {
  give_back(_taken);
  --engines;
}

bool DescriptorShare::has_room() const noexcept {
  // An engine that is made when others have taken their part of more still finds a quarter.
  return _taken < sessions() && taken_in_all < limit() / 4 * 3;
}

void DescriptorShare::take() noexcept {
  ++_taken;
  ++taken_in_all;
}

void DescriptorShare::give_back(std::size_t connections) noexcept {
  _taken -= connections;
  taken_in_all -= connections;
}

std::string DescriptorShare::why_full() const {
  return "readers have " + std::to_string(_taken) + " connections to this owner, which is their share of its " +
         "descriptors (ulimit -n is " + std::to_string(limit()) + "), and nobody has more sessions than this one " +
         "would: raise that limit at the owner, or close sessions";
}

std::size_t DescriptorShare::unadmitted() noexcept { return part(8, max_unadmitted); }

std::size_t DescriptorShare::handoffs() noexcept { return part(8, max_connections); }

}  // namespace kvdirect
