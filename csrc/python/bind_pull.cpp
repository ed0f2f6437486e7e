// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>

#include "base/seconds.h"
#include "bindings.h"
#include "by_value.h"
#include "pull_handle.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

// How long one wait may last: signals are looked at in between.
constexpr std::chrono::milliseconds slice{250};

std::string name_of(const PullHandle& self) { return nb::cast<std::string>(self.whose[0]); }

PullResult result(const PullHandle& self) {
  self.pull->process().check("result");
  if (!self.pull->done()) {
    throw Error(Errc::invalid_state, "the pull is still running",
                {.operation = "result", .peer = name_of(self), .hint = "Use wait() or await it"});
  }
  return self.pull->result();
}

[[noreturn]] void give_up(const PullHandle& self, double seconds) {
  std::ostringstream waited;
  waited << seconds;
  throw Error(Errc::wait_timeout, "the pull is still running after " + waited.str() + " s",
              {.operation = "wait", .peer = name_of(self), .hint = "Wait again, or cancel() it"});
}

PullResult wait(const PullHandle& self, std::optional<double> timeout) {
  Pull& pull = *self.pull;
  pull.process().check("wait");
  if (!pull.done()) {
    const auto deadline = timeout ? Clock::now() + bounded(*timeout) : Clock::time_point::max();
    while (true) {
      {
        const nb::gil_scoped_release unlocked;
        if (pull.wait_until(std::min(deadline, Clock::now() + slice))) break;
      }
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      if (Clock::now() >= deadline) give_up(self, *timeout);
    }
  }
  return pull.result();
}

bool cancelled(const PullHandle& self) {
  self.pull->process().check("cancelled");
  if (!self.pull->done()) return false;
  const std::optional<Error> failure = self.pull->failure();
  return failure && failure->code() == Errc::cancelled;
}

// A method of a pull that a fork has no part in.
template <auto method>
auto in_its_process(const char* name) {
  return [name](const PullHandle& self) {
    self.pull->process().check(name);
    return ((*self.pull).*method)();
  };
}

void bind_result(nb::module_& module) {
  nb::class_<PullResult>(module, "PullResult",
                         "A pull that ended valid: every byte landed while the lease held.\n\n"
                         "Attributes:\n"
                         "    bytes: Bytes that were moved.\n"
                         "    runs: Contiguous pieces, as planned; a lane may join neighbours.\n"
                         "    lane: How they moved.\n"
                         "    seconds: From the first byte asked for to the validated end.\n"
                         "    post_seconds: From the call of `Peer.pull` to the first byte asked for.\n"
                         "    shard: Whose, of an owner of several shards.\n"
                         "    shards: What each of them gave; empty where the owner is one process.")
      .def(nb::init<std::uint64_t, std::uint64_t, std::string, double, double>(), "bytes"_a, "runs"_a, "lane"_a,
           "seconds"_a, "post_seconds"_a)
      .def_ro("bytes", &PullResult::bytes)
      .def_ro("runs", &PullResult::runs)
      .def_ro("lane", &PullResult::lane)
      .def_ro("seconds", &PullResult::seconds)
      .def_ro("post_seconds", &PullResult::post_seconds)
      .def_ro("shard", &PullResult::shard)
      .def_ro("shards", &PullResult::shards)
      .def(ByValue({"bytes", "runs", "lane", "seconds", "post_seconds"}));
}

}  // namespace

void bind_pull(nb::module_& module) {
  bind_result(module);
  nb::class_<PullHandle>(module, "Pull", nb::is_weak_referenceable(),
                         "A running or finished pull; made by `Peer.pull`. Thread-safe, awaitable.\n\n"
                         "Dropping the object does not cancel the pull.")
      .def_prop_ro("done", in_its_process<&Pull::done>("done"), "The outcome is known.")
      .def_prop_ro("quiet", in_its_process<&Pull::quiet>("quiet"),
                   "No byte can land in the destination any more, whatever the outcome.")
      .def_prop_ro("cancelled", &cancelled, "It ended because `cancel` was called.")
      .def("poll", in_its_process<&Pull::done>("poll"), "Whether it is done; never blocks.")
      .def("result", &result,
           "The outcome of a finished pull.\n\n"
           "Raises:\n"
           "    InvalidState: It is still running.\n"
           "    PullError: It failed; the destination blocks must not be used, and not be reused before `quiet`.")
      .def("wait", &wait, "timeout"_a = nb::none(),
           "Wait for the end, without the GIL, and return `result()`.\n\n"
           "Args:\n"
           "    timeout: Seconds; None waits as long as the pull's own timeout allows.\n\n"
           "Raises:\n"
           "    WaitTimeout: `timeout` passed; the pull goes on.\n"
           "    PullError: It failed.")
      .def("cancel", in_its_process<&Pull::cancel>("cancel"), nb::call_guard<nb::gil_scoped_release>(),
           "Give up: `result()` raises PullCancelled at once; the destination is free when `quiet`. No-op when done.")
      .def("fileno", in_its_process<&Pull::fileno>("fileno"),
           "A descriptor that is readable once the pull is done, for `select` and the like; the pull's own, so not to "
           "be closed.")
      .def(
          "__await__", [](nb::handle self) { return nb::module_::import_("kvtransfer.pull").attr("awaited")(self); },
          "Wait in an asyncio loop. Cancelling the awaiting task leaves the pull running.")
      .def("__repr__", [](const PullHandle& self) {
        return "<Pull from " + name_of(self) + ": " + (self.pull->done() ? "done" : "running") + ">";
      });
}

}  // namespace kvdirect
