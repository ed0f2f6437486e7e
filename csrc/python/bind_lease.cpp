// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "by_value.h"
#include "lease.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

using IntArray = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const char* name(LeaseEndReason reason) {
  switch (reason) {
    case LeaseEndReason::completed: return "completed";
    case LeaseEndReason::expired: return "expired";
    case LeaseEndReason::revoked: return "revoked";
    case LeaseEndReason::max_hold: return "max_hold";
  }
  return "unknown";
}

const char* name(LeaseVerdict verdict) {
  switch (verdict) {
    case LeaseVerdict::valid: return "valid";
    case LeaseVerdict::not_yet: return "not_yet";
    case LeaseVerdict::expired: return "expired";
  }
  return "unknown";
}

LeaseEndReason reason_from(const std::string& text) {
  for (const auto reason :
       {LeaseEndReason::completed, LeaseEndReason::expired, LeaseEndReason::revoked, LeaseEndReason::max_hold}) {
    if (text == name(reason)) return reason;
  }
  throw nb::value_error(("reason: expected completed, expired, revoked or max_hold, got " + text).c_str());
}

// A table, and the range of it.
using NamedRange = std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>;

LeaseTable::Ranges ranges_of(const std::vector<NamedRange>& named) {
  constexpr std::uint32_t most_tables = 1U << 16;
  LeaseTable::Ranges ranges;
  for (const auto& [table, begin, end] : named) {
    if (table >= most_tables) throw nb::value_error("there are not so many block tables");
    if (table >= ranges.size()) ranges.resize(table + 1);
    ranges[table].push_back({begin, end});
  }
  return ranges;
}

LeaseTable::Tables copy(const std::vector<IntArray>& arrays) {
  LeaseTable::Tables tables;
  tables.reserve(arrays.size());
  for (const IntArray& array : arrays) tables.emplace_back(array.data(), array.data() + array.size());
  return tables;
}

void bind_values(nb::module_& module) {
  nb::class_<LeaseRef>(module, "LeaseRef", "Names one lease: a slot in the owner's table and the epoch it must hold.")
      .def(nb::init<std::uint32_t, std::uint64_t>(), "slot"_a, "epoch"_a)
      .def_ro("slot", &LeaseRef::slot)
      .def_ro("epoch", &LeaseRef::epoch)
      .def(ByValue({"slot", "epoch"}));

  nb::class_<LeaseEnd>(module, "LeaseEnd", "A lease that ended, and why.")
      .def(
          "__init__",
          [](LeaseEnd* self, LeaseRef lease, const std::string& reason) {
            new (self) LeaseEnd{lease, reason_from(reason)};
          },
          "lease"_a, "reason"_a)
      .def_ro("lease", &LeaseEnd::lease)
      .def_prop_ro("reason", [](const LeaseEnd& self) { return name(self.reason); })
      .def(ByValue({"lease", "reason"}));
}

}  // namespace

void bind_lease(nb::module_& module) {
  bind_values(module);
  using Seconds = LeaseTable::Seconds;
  // The GIL is kept: every method holds the table's lock for well under a microsecond's work a block, and no thread
  // that holds that lock ever wants the GIL.
  nb::class_<LeaseTable>(module, "LeaseTable", "The owner's promises. Every method is thread-safe.")
      .def(
          "__init__",
          [](LeaseTable* self, std::uint32_t slots, double max_hold) {
            new (self) LeaseTable(slots, Seconds{max_hold});
          },
          "slots"_a = LeaseTable::max_slots, "max_hold"_a = 480.0)
      .def("reserve", nb::overload_cast<>(&LeaseTable::reserve))
      .def("reserve_exact", nb::overload_cast<LeaseRef>(&LeaseTable::reserve), "lease"_a)
      .def(
          "grant",
          [](LeaseTable& self, LeaseRef lease, const std::vector<IntArray>& tables,
             const std::vector<NamedRange>& ranges) { self.grant(lease, copy(tables), ranges_of(ranges)); },
          "lease"_a, "tables"_a, "ranges"_a = std::vector<NamedRange>{})
      .def(
          "grant_or_reserve",
          [](LeaseTable& self, std::optional<LeaseRef> lease, const std::vector<IntArray>& tables,
             const std::vector<NamedRange>& ranges) {
            return self.grant_or_reserve(lease, copy(tables), ranges_of(ranges));
          },
          "lease"_a.none(), "tables"_a, "ranges"_a = std::vector<NamedRange>{})
      .def("raise_watermark", &LeaseTable::raise_watermark, "lease"_a, "positions"_a)
      .def(
          "start_term", [](LeaseTable& self, LeaseRef lease, double term) { self.start_term(lease, Seconds{term}); },
          "lease"_a, "term"_a)
      .def(
          "renew", [](LeaseTable& self, LeaseRef lease, double term) { return self.renew(lease, Seconds{term}); },
          "lease"_a, "term"_a)
      .def("complete", &LeaseTable::complete, "lease"_a, "readers"_a = 1)
      .def(
          "revoke", [](LeaseTable& self, LeaseRef lease) { return self.revoke(lease); }, "lease"_a)
      .def("revoke_all", &LeaseTable::revoke_all)
      .def("expire",
           [](LeaseTable& self) -> std::optional<double> {
             const auto now = LeaseTable::Clock::now();
             const auto next = self.expire(now);
             if (!next) return std::nullopt;
             return Seconds{*next - now}.count();
           })
      .def(
          "verdict",
          [](const LeaseTable& self, LeaseRef lease, std::uint64_t positions) {
            return name(self.verdict(lease, positions));
          },
          "lease"_a, "positions"_a)
      .def(
          "blocks", [](const LeaseTable& table, LeaseRef lease) { return table.blocks(lease); }, "lease"_a)
      .def("take_ended", &LeaseTable::take_ended)
      .def_prop_ro("live", &LeaseTable::live)
      .def_prop_ro("slots", [](const LeaseTable& self) { return self.words().size(); });
}

}  // namespace kvdirect
