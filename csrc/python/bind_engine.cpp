// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/seconds.h"
#include "bindings.h"
#include "engine.h"
#include "gather.h"
#include "id_tables.h"
#include "pull_handle.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

using NoGil = nb::call_guard<nb::gil_scoped_release>;

void bind_settings(nb::module_& module) {
  nb::class_<EngineSettings>(module, "EngineSettings")
      .def(nb::init<>())
      .def_rw("name", &EngineSettings::name)
      .def_rw("listen", &EngineSettings::listen)
      .def_rw("lanes", &EngineSettings::lanes)
      .def_rw("rdma_devices", &EngineSettings::rdma_devices)
      .def_rw("rdma_staging", &EngineSettings::rdma_staging)
      .def_rw("segment_bytes", &EngineSettings::segment_bytes)
      .def_rw("shm_directory", &EngineSettings::shm_directory)
      .def_rw("copy_threads", &EngineSettings::copy_threads)
      .def_prop_rw(
          "cuda_sms", [](const EngineSettings& self) { return self.gpu.sms; },
          [](EngineSettings& self, unsigned sms) { self.gpu.sms = sms; })
      .def_prop_rw(
          "cuda_copy",
          [](const EngineSettings& self) {
            return std::string(gpu_copy_names[static_cast<std::size_t>(self.gpu.copy)]);
          },
          [](EngineSettings& self, const std::string& copy) {
            const auto known = std::ranges::find(gpu_copy_names, copy);
            if (known == gpu_copy_names.end()) throw Error(Errc::config, "cuda_copy=" + copy + " is unknown");
            self.gpu.copy = static_cast<GpuCopy>(known - gpu_copy_names.begin());
          })
      .def_rw("message_streams", &EngineSettings::message_streams)
      .def_rw("lease_slots", &EngineSettings::lease_slots)
      .def_rw("max_hold", &EngineSettings::max_hold)
      .def_prop_rw(
          "admission", [](const EngineSettings& self) { return as_python(self.admission); },
          [](EngineSettings& self, const nb::bytes& secret) {
            self.admission.assign(view(secret).begin(), view(secret).end());
          });
  nb::dict table;
  for (const SettingLimit& limit : setting_limits) {
    table[nb::str(limit.name.data(), limit.name.size())] = nb::make_tuple(limit.least, limit.most);
  }
  module.attr("SETTING_LIMITS") = table;
}

// A pull that `begin` gives, which needs no GIL; `whose`: see PullHandle.
template <class Begin>
PullHandle pulled(nb::object whose, Begin begin) {
  PullHandle handle{nullptr, std::move(whose)};
  const nb::gil_scoped_release unlocked;
  handle.pull = begin();
  return handle;
}

PullHandle pull(Peer& peer, const LeaseRef& lease, nb::handle remote, nb::handle local, std::uint64_t start,
                std::uint64_t stop, std::uint64_t watermark, double timeout, std::string lane,
                std::optional<std::uint64_t> stream, bool verify, nb::handle convert, nb::object whose) {
  IdTables theirs(remote, "remote", "pull", convert);
  IdTables ours(local, "local", "pull", convert);
  const Peer::Request request{lease,           {theirs.take_views(), ours.take_views(), start, stop, ours.left_out()},
                              watermark,       timeout,
                              std::move(lane), stream,
                              verify};
  return pulled(std::move(whose), [&] { return peer.pull(request); });
}

PullHandle pull_shards(ShardedPeer& peer, std::vector<LeaseRef> leases, const nb::list& remote, nb::handle local,
                       std::uint64_t start, std::uint64_t stop, std::uint64_t watermark, double timeout,
                       std::string lane, std::optional<std::uint64_t> stream, bool verify, nb::handle convert,
                       nb::object whose) {
  std::vector<std::unique_ptr<IdTables>> theirs;
  std::vector<std::vector<BlockTable>> tables;
  for (const nb::handle one : remote) {
    theirs.push_back(std::make_unique<IdTables>(one, "remote", "pull", convert));
    tables.push_back(theirs.back()->take_views());
  }
  IdTables ours(local, "local", "pull", convert);
  const ShardedPeer::Request request{
      std::move(leases),
      std::move(tables),
      {{}, {{}, ours.take_views(), start, stop, ours.left_out()}, watermark, timeout, std::move(lane), stream, verify}};
  return pulled(std::move(whose), [&] { return peer.pull(request); });
}

// What a peer said, whatever it is.
nb::object text(const std::string& bytes) {
  return nb::steal(PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace"));
}

Note note_of(const nb::bytes& body) { return {{view(body).begin(), view(body).end()}}; }

// One read of each of several owners, as one pull: (peer, lease, remote, local, start, stop, watermark) of each.
using NamedPart = std::tuple<Peer*, LeaseRef, nb::object, nb::object, std::uint64_t, std::uint64_t, std::uint64_t>;

PullHandle gather_from(const std::vector<NamedPart>& parts, const std::vector<std::size_t>& numbers, double timeout,
                       const std::string& lane, std::optional<std::uint64_t> stream, bool verify, nb::handle convert,
                       nb::object whose) {
  std::vector<std::unique_ptr<IdTables>> tables;
  std::vector<GatherPart> wanted;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto& [peer, lease, remote, local, start, stop, watermark] = parts[i];
    IdTables& theirs = *tables.emplace_back(std::make_unique<IdTables>(remote, "remote", "gather", convert));
    IdTables& ours = *tables.emplace_back(std::make_unique<IdTables>(local, "local", "gather", convert));
    wanted.push_back({peer,
                      numbers.at(i),
                      {lease,
                       {theirs.take_views(), ours.take_views(), start, stop, ours.left_out()},
                       watermark,
                       timeout,
                       lane,
                       stream,
                       verify}});
  }
  return pulled(std::move(whose), [&] { return gather(wanted); });
}

// The last of a peer waits until its pulls are quiet, which may take seconds; Python lets go of it with the GIL held.
template <class P>
std::shared_ptr<P> dropped_without_gil(std::shared_ptr<P> peer) {
  P* const known = peer.get();
  return {known, [peer = std::move(peer)](P* /*same*/) mutable {
            const nb::gil_scoped_release unlocked;
            peer.reset();
          }};
}

void bind_peer(nb::module_& module) {
  nb::class_<Peer>(module, "Peer")
      .def_prop_ro("name", &Peer::name)
      .def_prop_ro("incarnation", &Peer::incarnation)
      .def_prop_ro("lane", &Peer::lane)
      .def_prop_ro("lanes", &Peer::lanes)
      .def_prop_ro("lane_summary", &Peer::lane_summary)
      .def_prop_ro("alive", &Peer::alive)
      .def_prop_ro("map", &Peer::map)
      .def_prop_ro("plan_summary", &Peer::plan_summary)
      .def("pull", &pull, "lease"_a, "remote"_a, "local"_a, "start"_a, "stop"_a, "watermark"_a, "timeout"_a, "lane"_a,
           "stream"_a.none(), "verify"_a, "convert"_a, "whose"_a)
      .def("complete", &Peer::complete, "lease"_a, "readers"_a, NoGil())
      .def("hold", &Peer::hold, "lease"_a, "term"_a, "affirm_within"_a, NoGil())
      .def("affirm", &Peer::affirm, "lease"_a, NoGil())
      .def(
          "notify", [](Peer& self, const nb::bytes& body) { self.notify(note_of(body)); }, "body"_a)
      .def("drop", &Peer::drop, "lease"_a, NoGil())
      .def("close", nb::overload_cast<>(&Peer::close), NoGil());
}

void bind_sharded_peer(nb::module_& module) {
  nb::class_<ShardedPeer>(module, "ShardedPeer")
      .def_prop_ro("name", &ShardedPeer::name)
      .def_prop_ro("incarnation", &ShardedPeer::incarnation)
      .def_prop_ro("count", &ShardedPeer::count)
      .def_prop_ro("read", &ShardedPeer::read)
      .def_prop_ro("lane", &ShardedPeer::lane)
      .def_prop_ro("lanes", &ShardedPeer::lanes)
      .def_prop_ro("lane_summary", &ShardedPeer::lane_summary)
      .def_prop_ro("alive", &ShardedPeer::alive)
      .def_prop_ro("maps", &ShardedPeer::maps)
      .def_prop_ro("plan_summary", &ShardedPeer::plan_summary)
      .def("pull", &pull_shards, "leases"_a, "remote"_a, "local"_a, "start"_a, "stop"_a, "watermark"_a, "timeout"_a,
           "lane"_a, "stream"_a.none(), "verify"_a, "convert"_a, "whose"_a)
      .def("complete", &ShardedPeer::complete, "leases"_a, "readers"_a, NoGil())
      .def("hold", &ShardedPeer::hold, "leases"_a, "term"_a, "affirm_within"_a, NoGil())
      .def("affirm", &ShardedPeer::affirm, "leases"_a, NoGil())
      .def(
          "notify", [](ShardedPeer& self, const nb::bytes& body) { self.notify(note_of(body)); }, "body"_a)
      .def("drop", &ShardedPeer::drop, "leases"_a, NoGil())
      .def("close", &ShardedPeer::close, NoGil());
}

}  // namespace

void bind_engine(nb::module_& module) {
  module.attr("PROTOCOL_VERSION") = protocol_version;
  nb::list names;
  for (const std::string_view lane : known_lanes) names.append(nb::str(lane.data(), lane.size()));
  module.attr("LANES") = nb::tuple(names);
  nb::list copies;
  for (const std::string_view copy : gpu_copy_names) copies.append(nb::str(copy.data(), copy.size()));
  module.attr("CUDA_COPIES") = nb::tuple(copies);
  module.attr("CUDA_BUILD") = Gpu::built();
  bind_settings(module);
  bind_pull(module);
  bind_peer(module);
  bind_sharded_peer(module);
  module.def("gather", &gather_from, "parts"_a, "numbers"_a, "timeout"_a, "lane"_a, "stream"_a.none(), "verify"_a,
             "convert"_a, "whose"_a);
  nb::class_<Engine>(module, "Engine")
      .def(nb::init<EngineSettings>(), "settings"_a, NoGil())
      .def("register_region", &Engine::register_region, "address"_a, "length"_a, "memory"_a, NoGil())
      .def("publish", &Engine::publish, "map"_a, NoGil())
      .def("fence_stream", &Engine::fence_stream, NoGil())
      .def("readers_mapping", &Engine::readers_mapping, NoGil())
      .def("raise_watermarks_after", &Engine::raise_watermarks_after, "watermarks"_a, "stream"_a, NoGil())
      .def("descriptor", [](Engine& self) { return as_python(self.descriptor()); })
      .def(
          "connect",
          [](Engine& self, const nb::bytes& descriptor, const std::vector<std::string>& lanes,
             const std::string& require_lane, double timeout) {
            const nb::gil_scoped_release unlocked;
            return dropped_without_gil(self.connect(view(descriptor), lanes, require_lane, timeout));
          },
          "descriptor"_a, "lanes"_a, "require_lane"_a, "timeout"_a)
      .def(
          "connect_shards",
          [](Engine& self, const std::vector<nb::bytes>& descriptors, const std::vector<std::string>& lanes,
             const std::string& require_lane, double timeout, const std::vector<std::size_t>& idle,
             std::optional<std::uint64_t> reader_index) {
            std::vector<BytesView> views;
            for (const nb::bytes& descriptor : descriptors) views.push_back(view(descriptor));
            const nb::gil_scoped_release unlocked;
            return dropped_without_gil(self.connect_shards(views, lanes, require_lane, timeout, idle, reader_index));
          },
          "descriptors"_a, "lanes"_a, "require_lane"_a, "timeout"_a, "idle"_a, "reader_index"_a.none())
      .def("counters",
           [](const Engine& self) {
             nb::dict values;
             for (const auto& [key, value] : self.counters().snapshot())
               values[nb::str(key.data(), key.size())] = value;
             return values;
           })
      .def(
          "take_notes",
          [](Engine& self, double seconds) {
            std::vector<Notes::From> notes;
            {
              const nb::gil_scoped_release unlocked;
              notes = self.notes().take(Clock::now() + bounded(seconds));
            }
            nb::list taken;
            for (const Notes::From& note : notes) {
              taken.append(nb::make_tuple(text(note.reader), note.incarnation, as_python(note.body)));
            }
            return taken;
          },
          "seconds"_a)
      .def("close", &Engine::close, NoGil())
      .def_prop_ro(
          "leases", [](const Engine& self) -> LeaseTable& { return *self.leases(); }, nb::rv_policy::reference_internal)
      .def_prop_ro("incarnation", &Engine::incarnation)
      .def_prop_ro("lane_problems", &Engine::lane_problems)
      .def_prop_ro("closed", &Engine::closed);
}

}  // namespace kvdirect
