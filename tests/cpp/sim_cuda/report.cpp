// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/fd.h"
#include "context.h"
#include "cuda/driver.h"
#include "events.h"
#include "kernel.h"
#include "mappings.h"
#include "modules.h"
#include "stream.h"
#include "vmm.h"

// For tests: what is left, and how slow the GPU is.
namespace kvdirect::sim {

namespace {

struct Count {
  const char* kind;
  std::size_t (*count)();
};

constexpr std::array counts = {
    Count{"allocations", [] { return count_mappings(Kind::plain); }},
    Count{"host_allocations", [] { return count_mappings(Kind::host); }},
    Count{"mappings", [] { return count_mappings(Kind::vmm); }},
    Count{"imported", [] { return count_mappings(Kind::imported); }},
    Count{"handles", [] { return count_handles(); }},
    Count{"reservations", [] { return count_reservations(); }},
    Count{"streams", [] { return streams().count(); }},
    Count{"events", [] { return events().count(); }},
    Count{"modules", [] { return modules().count(); }},
    Count{"contexts", [] { return retained_contexts(); }},
    Count{"launches", [] { return count_launches(); }},
    Count{"looks", [] { return count_looks(); }},
    Count{"uploads", [] { return count_uploads(); }},
    Count{"uses_after_free", [] { return uses_after_free(); }},
    Count{"freed_while_open", [] { return freed_while_open(); }},
};

std::string report() {
  std::string line = "{\"process\": " + std::to_string(getpid());
  for (const auto& [kind, count] : counts) {
    line += std::string(", \"") + kind + "\": " + std::to_string(count());
  }
  return line + "}\n";
}

// Appended, so that processes may share the file.
void write_report() {
  const char* path = std::getenv("KVDIRECT_SIM_CUDA_REPORT");
  if (!path) return;
  const Fd fd(open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  const std::string line = report();
  if (!fd || write(fd.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    say(std::string("the report could not be written to ") + path);
  }
}

// Of the process that loaded the library: a forked child has nothing of its own to report.
struct AtExit {
  pid_t process = getpid();
  ~AtExit() {
    if (getpid() == process) write_report();
  }
};
const AtExit at_exit;

// Linking fails if one of the functions that are used is not simulated.
#define KVDIRECT_ADDRESS(function) reinterpret_cast<const void*>(&::function),
[[maybe_unused, gnu::used]] const std::array simulated = {KVDIRECT_CUDA_FUNCTIONS(KVDIRECT_ADDRESS)
#if CUDA_VERSION >= 13000
                                                              reinterpret_cast<const void*>(&::cuMemcpyBatchAsync)
#endif
};
#undef KVDIRECT_ADDRESS

}  // namespace

}  // namespace kvdirect::sim

extern "C" {

// How many there are now, of a kind that the report names; -1: there is no such kind.
__attribute__((visibility("default"))) long kvdirect_sim_live(const char* kind) {
  for (const auto& [name, count] : kvdirect::sim::counts) {
    if (std::strcmp(name, kind) == 0) return static_cast<long>(count());
  }
  return -1;
}

__attribute__((visibility("default"))) void kvdirect_sim_set_delay_us(unsigned microseconds) {
  kvdirect::sim::set_delay_us(microseconds);
}

}  // extern "C"
