// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// What owners and readers do to each other, all at once and at random, in several processes that are killed and started
// again, for as long as it is told; every byte is checked. Meant for the sanitizers: `make sanitize`.
//
//   kvdirect_stress [--seconds N] [--processes N] [--seed N]
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>

#include "supervisor.h"

namespace {

using namespace kvdirect::stress;  // NOLINT: this program's own

struct Options {
  double seconds = 30;
  unsigned processes = 3;
  std::uint64_t seed = 0;
};

int usage() {
  std::fprintf(stderr, "usage: kvdirect_stress [--seconds N] [--processes 1 to %u] [--seed N]\n", max_processes);
  return 2;
}

// A directory that is gone at the end.
class Directory {
 public:
  Directory() {
    std::string path = std::filesystem::temp_directory_path() / "kvdirect-stress-XXXXXX";
    if (mkdtemp(path.data()) == nullptr) throw kvdirect::kernel_refused("make a directory");
    _path = path;
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(_path, ignored);
  }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return _path; }

 private:
  std::filesystem::path _path;
};

int supervise(const Options& options) {
  const Directory directory;
  const auto seconds = std::chrono::duration<double>(options.seconds);
  std::printf("%u processes for %.0f s, seed %llu\n", options.processes, options.seconds,
              static_cast<unsigned long long>(options.seed));
  std::fflush(stdout);
  Supervisor(directory.path(), options.processes, options.seed)
      .run(Clock::now() + std::chrono::duration_cast<Clock::duration>(seconds));
  return Page::map(directory.path() / "page").tally.report() ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count == 6 && std::string_view(arguments[1]) == "--process") {
    Process(arguments[2], static_cast<unsigned>(std::stoul(arguments[3])),
            static_cast<unsigned>(std::stoul(arguments[4])))
        .run(std::stoull(arguments[5]));
    return 0;
  }
  Options options;
  if (getrandom(&options.seed, sizeof options.seed, 0) != sizeof options.seed) return 2;
  for (int i = 1; i < count; i += 2) {
    const std::string_view option = arguments[i];
    if (i + 1 == count) return usage();
    if (option == "--seconds") {
      options.seconds = std::stod(arguments[i + 1]);
    } else if (option == "--processes") {
      options.processes = static_cast<unsigned>(std::stoul(arguments[i + 1]));
    } else if (option == "--seed") {
      options.seed = std::stoull(arguments[i + 1]);
    } else {
      return usage();
    }
  }
  if (options.processes < 1 || options.processes > max_processes) return usage();
  return supervise(options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "kvdirect_stress: %s\n", error.what());
  return 2;
}
