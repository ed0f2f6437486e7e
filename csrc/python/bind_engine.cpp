// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings.h"
#include "engine.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

using IdArray = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NoGil = nb::call_guard<nb::gil_scoped_release>;

BytesView view(const nb::bytes& bytes) { return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}; }

nb::bytes as_python(const Bytes& bytes) { return nb::bytes(bytes.data(), bytes.size()); }

std::vector<BlockTable> tables(const std::vector<IdArray>& arrays) {
  std::vector<BlockTable> views;
  views.reserve(arrays.size());
  for (const IdArray& array : arrays) views.emplace_back(array.data(), array.size());
  return views;
}

void init_engine(Engine* self, std::string name, std::string listen, std::vector<std::string> lanes,
                 std::string rdma_devices, std::uint64_t segment_bytes, std::string shm_directory,
                 unsigned copy_threads, unsigned message_streams, std::uint32_t lease_slots, double max_hold,
                 const nb::bytes& admission) {
  EngineSettings settings{std::move(name),
                          std::move(listen),
                          std::move(lanes),
                          std::move(rdma_devices),
                          segment_bytes,
                          std::move(shm_directory),
                          copy_threads,
                          message_streams,
                          lease_slots,
                          max_hold,
                          {view(admission).begin(), view(admission).end()}};
  const nb::gil_scoped_release unlocked;
  new (self) Engine(std::move(settings));
}

std::shared_ptr<Pull> pull(Peer& peer, std::uint32_t slot, std::uint64_t epoch, const std::vector<IdArray>& remote,
                           const std::vector<IdArray>& local, std::uint64_t start, std::uint64_t stop,
                           std::uint64_t watermark, double timeout, std::string lane) {
  const Peer::Request request{
      {slot, epoch}, {tables(remote), tables(local), start, stop}, watermark, timeout, std::move(lane)};
  const nb::gil_scoped_release unlocked;
  return peer.pull(request);
}

bool wait(Pull& pull, double seconds) {
  pull.process().check("wait");
  // Bounded here so that the sum with now() cannot overflow; callers that want longer call again.
  const auto span = std::chrono::duration<double>(std::clamp(seconds, 0.0, 1e6));
  const nb::gil_scoped_release unlocked;
  return pull.wait_until(Clock::now() + std::chrono::duration_cast<Clock::duration>(span));
}

nb::tuple result(const Pull& pull) {
  pull.process().check("result");
  const PullResult value = pull.result();
  return nb::make_tuple(value.bytes, value.runs, value.lane, value.seconds, value.post_seconds);
}

void bind_pull(nb::module_& module) {
  nb::class_<Pull>(module, "NativePull")
      .def("done",
           [](const Pull& self) {
             self.process().check("done");
             return self.done();
           })
      .def("quiet",
           [](const Pull& self) {
             self.process().check("quiet");
             return self.quiet();
           })
      .def("wait", &wait, "seconds"_a)
      .def(
          "cancel",
          [](Pull& self) {
            self.process().check("cancel");
            self.cancel();
          },
          NoGil())
      .def("result", &result)
      .def("fileno", [](Pull& self) {
        self.process().check("fileno");
        return self.fileno();
      });
}

void bind_peer(nb::module_& module) {
  nb::class_<Peer>(module, "NativePeer")
      .def_prop_ro("name", &Peer::name)
      .def_prop_ro("incarnation", &Peer::incarnation)
      .def_prop_ro("lane", &Peer::lane)
      .def_prop_ro("lanes", &Peer::lanes)
      .def_prop_ro("alive", &Peer::alive)
      .def_prop_ro("map", &Peer::map)
      .def_prop_ro("plan_summary", &Peer::plan_summary)
      .def("pull", &pull, "slot"_a, "epoch"_a, "remote"_a, "local"_a, "start"_a, "stop"_a, "watermark"_a, "timeout"_a,
           "lane"_a)
      .def(
          "complete",
          [](Peer& self, std::uint32_t slot, std::uint64_t epoch, std::uint32_t readers) {
            self.complete({slot, epoch}, readers);
          },
          "slot"_a, "epoch"_a, "readers"_a, NoGil())
      .def(
          "hold",
          [](Peer& self, std::uint32_t slot, std::uint64_t epoch, double term, double affirm_within) {
            self.hold({slot, epoch}, term, affirm_within);
          },
          "slot"_a, "epoch"_a, "term"_a, "affirm_within"_a, NoGil())
      .def(
          "affirm", [](Peer& self, std::uint32_t slot, std::uint64_t epoch) { self.affirm({slot, epoch}); }, "slot"_a,
          "epoch"_a, NoGil())
      .def(
          "drop", [](Peer& self, std::uint32_t slot, std::uint64_t epoch) { self.drop({slot, epoch}); }, "slot"_a,
          "epoch"_a, NoGil())
      .def("close", nb::overload_cast<>(&Peer::close), NoGil());
}

}  // namespace

void bind_engine(nb::module_& module) {
  module.attr("PROTOCOL_VERSION") = protocol_version;
  bind_pull(module);
  bind_peer(module);
  nb::class_<Engine>(module, "NativeEngine")
      .def("__init__", &init_engine, "name"_a, "listen"_a, "lanes"_a, "rdma_devices"_a, "segment_bytes"_a,
           "shm_directory"_a, "copy_threads"_a, "message_streams"_a, "lease_slots"_a, "max_hold"_a, "admission"_a)
      .def("register_region", &Engine::register_region, "address"_a, "length"_a, "memory"_a)
      .def("publish", &Engine::publish, "map"_a)
      .def("descriptor", [](Engine& self) { return as_python(self.descriptor()); })
      .def(
          "connect",
          [](Engine& self, const nb::bytes& descriptor, const std::vector<std::string>& lanes,
             const std::string& require_lane, double timeout) {
            const nb::gil_scoped_release unlocked;
            return self.connect(view(descriptor), lanes, require_lane, timeout);
          },
          "descriptor"_a, "lanes"_a, "require_lane"_a, "timeout"_a)
      .def("counters",
           [](const Engine& self) {
             nb::dict values;
             for (const auto& [key, value] : self.counters().snapshot())
               values[nb::str(key.data(), key.size())] = value;
             return values;
           })
      .def("close", &Engine::close, NoGil())
      .def_prop_ro(
          "leases", [](const Engine& self) -> LeaseTable& { return *self.leases(); }, nb::rv_policy::reference_internal)
      .def_prop_ro("incarnation", &Engine::incarnation)
      .def_prop_ro("why_no_shm", &Engine::why_no_shm)
      .def_prop_ro("closed", &Engine::closed);
}

}  // namespace kvdirect
