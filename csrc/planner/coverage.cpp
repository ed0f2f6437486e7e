// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "planner/coverage.h"

#include <algorithm>
#include <type_traits>

#include "base/error.h"
#include "planner/map_checks.h"

namespace kvdirect {

namespace {

constexpr std::uint64_t max_searched = std::uint64_t{1} << 20;  // indices looked at one by one for a better message

std::string axis_names(const Component& component) {
  std::vector<std::string> names;
  for (const auto& axis : component.axes) names.push_back(axis.name);
  std::ranges::sort(names);  // order does not matter, the strides say it
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

[[noreturn]] void mismatch(const Component& local, const std::string& problem) {
  throw Error(Errc::mismatch, "component '" + local.name + "': " + problem,
              {.operation = "plan", .hint = "Both sides must run the same model with the same cache settings."});
}

void check_same(const Component& local, const Component& remote, std::size_t shard, std::size_t shards) {
  const std::string suffix = shards > 1 ? " (shard " + std::to_string(shard) + ")" : "";
  const auto same = [&](const char* field, const auto& here, const auto& there) {
    if (here == there) return;
    const auto quote = [](const auto& value) {
      if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
        return std::to_string(value);
      } else {
        return std::string("'").append(value).append("'");
      }
    };
    mismatch(local, std::string(field) + " is " + quote(here) + " here and " + quote(there) + " at the peer" + suffix);
  };
  same("dtype", local.dtype, remote.dtype);
  same("item_bytes", local.item_bytes, remote.item_bytes);
  same("elements_per_item", local.elements_per_item, remote.elements_per_item);
  same("tokens_per_cell", local.tokens_per_cell, remote.tokens_per_cell);
  same("set of axes", axis_names(local), axis_names(remote));
}

// Do the two shares hold anything together? Products are disjoint as soon as one axis is.
bool disjoint(const ShardSource& a, const ShardSource& b, Budget& budget) {
  for (std::size_t i = 0; i < a.axes.size(); ++i) {
    if (intersect(globals(a.axes[i].shared), globals(b.axes[i].shared), budget).empty()) return true;
  }
  return false;
}

bool same_cover(const ShardSource& a, const ShardSource& b, Budget& budget) {
  for (std::size_t i = 0; i < a.axes.size(); ++i) {
    const std::uint64_t size = count(a.axes[i].shared);
    if (size != count(b.axes[i].shared)) return false;
    if (count(intersect(globals(a.axes[i].shared), globals(b.axes[i].shared), budget)) != size) return false;
  }
  return true;
}

// Keeps one of each set of replicas; readers with different indices get different ones.
std::vector<ShardSource> choose_replicas(std::vector<ShardSource> shares, std::uint64_t reader_index, Budget& budget) {
  std::vector<std::vector<std::size_t>> sets;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const std::uint32_t group = shares[i].remote->replica_group;
    const auto found = std::ranges::find_if(sets, [&](const std::vector<std::size_t>& set) {
      const ShardSource& first = shares[set.front()];
      return group != 0 && first.remote->replica_group == group && same_cover(first, shares[i], budget);
    });
    if (found == sets.end()) {
      sets.push_back({i});
    } else {
      found->push_back(i);
    }
  }
  std::vector<ShardSource> chosen;
  for (const auto& set : sets) chosen.push_back(std::move(shares[set[reader_index % set.size()]]));
  return chosen;
}

// "4..7", "0..6 in steps of 2" or "3".
std::string range_text(const OwnedRange& range) {
  if (range.length == 1) return std::to_string(range.start);
  std::string text = std::to_string(range.start) + ".." + std::to_string(range.start + (range.length - 1) * range.step);
  if (range.step > 1) text += " in steps of " + std::to_string(range.step);
  return text;
}

[[noreturn]] void refuse_double(const Component& local, const ShardSource& a, const ShardSource& b, Budget& budget) {
  std::string what;
  for (std::size_t i = 0; i < a.axes.size(); ++i) {
    const auto both = intersect(globals(a.axes[i].shared), globals(b.axes[i].shared), budget);
    what += (what.empty() ? "" : ", ") + a.axes[i].local->name + " " + range_text(both.front().global);
    if (both.size() > 1) what += " and more";
  }
  throw Error(Errc::plan,
              "component '" + local.name + "': shards " + std::to_string(a.shard) + " and " + std::to_string(b.shard) +
                  " both hold " + (what.empty() ? "all of it" : what),
              {.operation = "plan", .hint = "Give shards that hold the same bytes the same replica_group."});
}

// How much of the rest of the component is held for every local index of one axis, and how much there is.
struct Profile {
  std::vector<std::uint64_t> held;
  std::uint64_t wanted = 1;
  [[nodiscard]] std::uint64_t gaps() const {
    return static_cast<std::uint64_t>(std::ranges::count_if(held, [this](auto cells) { return cells < wanted; }));
  }
};

Profile profile(const Component& local, std::span<const ShardSource> shares, const Axis& axis) {
  Profile result;
  result.held.assign(axis.extent, 0);
  for (const auto& other : local.axes) {
    if (is_global(local, other) && other.name != axis.name) result.wanted *= other.extent;
  }
  for (const auto& share : shares) {
    std::uint64_t cells = 1;
    const ShardSource::AxisPair* mine = nullptr;
    for (const auto& pair : share.axes) {
      if (pair.local->name == axis.name) {
        mine = &pair;
      } else {
        cells *= count(pair.shared);
      }
    }
    for (const auto& shared : mine->shared) {
      for (std::uint64_t i = 0; i < shared.global.length; ++i) result.held[shared.here + i * shared.here_step] += cells;
    }
  }
  return result;
}

// The global indices at local indices [first, last] of the axis, as far as one range goes.
OwnedRange global_range(const Axis& axis, std::uint64_t first, std::uint64_t last) {
  for (const auto& range : placed(axis)) {
    if (first < range.local || first >= range.local + range.global.length) continue;
    const std::uint64_t length = std::min(last, range.local + range.global.length - 1) - first + 1;
    return {range.global.start + (first - range.local) * range.global.step, length, range.global.step};
  }
  return {};
}

// Names the axis with the fewest indices that lack something: there the gap is seen best.
[[noreturn]] void refuse_missing(const Component& local, std::span<const ShardSource> shares, std::size_t shards) {
  const Axis* best = nullptr;
  Profile best_profile;
  for (const auto& axis : local.axes) {
    if (!is_global(local, axis) || axis.extent > max_searched) continue;
    Profile candidate = profile(local, shares, axis);
    if (best != nullptr && candidate.gaps() * best->extent >= best_profile.gaps() * axis.extent) continue;
    best = &axis;
    best_profile = std::move(candidate);
  }
  std::string what = shares.empty() ? "it" : "a part of it";
  std::string how = "is held by none of the " + std::to_string(shards) + " shards";
  if (best != nullptr) {
    const auto& held = best_profile.held;
    const auto lacks = [&](std::uint64_t cells) { return cells < best_profile.wanted; };
    const auto begin = std::ranges::find_if(held, lacks);
    const auto end = std::find_if(begin, held.end(), [&](auto cells) { return cells != *begin; });
    const auto first = static_cast<std::uint64_t>(begin - held.begin());
    what =
        best->name + " " + range_text(global_range(*best, first, static_cast<std::uint64_t>(end - held.begin()) - 1));
    if (*begin != 0) how = "is held only in part by the " + std::to_string(shards) + " shards";
  }
  throw Error(Errc::plan, "component '" + local.name + "': " + what + " " + how,
              {.operation = "plan", .hint = "Connect to every shard that holds a part of what this side wants."});
}

}  // namespace

bool is_global(const Component& component, const Axis& axis) noexcept {
  if (axis.name == "block") return false;
  return axis.name != "token" || find_axis(component, "block") == nullptr;
}

ComponentIndex index_components(const TensorMap& map) {
  ComponentIndex index;
  for (const auto& component : map.components) index.emplace(component.name, &component);
  return index;
}

std::vector<ShardSource> exact_cover(const Component& local, std::span<const ComponentIndex> remotes,
                                     std::uint64_t reader_index, Budget& budget) {
  std::vector<ShardSource> shares;
  bool described = false;
  for (std::size_t shard = 0; shard < remotes.size(); ++shard) {
    const auto found = remotes[shard].find(local.name);
    if (found == remotes[shard].end()) continue;  // holds other layers, perhaps; the counts will tell
    const Component& remote = *found->second;
    described = true;
    check_same(local, remote, shard, remotes.size());
    ShardSource share{shard, &remote, {}};
    bool empty = false;
    for (const auto& axis : local.axes) {
      if (!is_global(local, axis)) continue;
      const Axis* there = find_axis(remote, axis.name);
      share.axes.push_back({&axis, there, intersect(placed(axis), placed(*there), budget)});
      empty = empty || share.axes.back().shared.empty();
    }
    if (!empty) shares.push_back(std::move(share));
  }
  if (!described) mismatch(local, "wanted here and described by none of the peers");

  shares = choose_replicas(std::move(shares), reader_index, budget);
  for (std::size_t i = 0; i < shares.size(); ++i) {
    for (std::size_t j = i + 1; j < shares.size(); ++j) {
      if (!disjoint(shares[i], shares[j], budget)) refuse_double(local, shares[i], shares[j], budget);
    }
  }
  // Disjoint parts of the whole: they are the whole when their sizes add up to it.
  std::uint64_t wanted = 1;
  for (const auto& axis : local.axes) {
    if (is_global(local, axis)) wanted *= axis.extent;
  }
  std::uint64_t held = 0;
  for (const auto& share : shares) {
    std::uint64_t cells = 1;
    for (const auto& pair : share.axes) cells *= count(pair.shared);
    held += cells;
  }
  if (held != wanted) refuse_missing(local, shares, remotes.size());
  return shares;
}

}  // namespace kvdirect
