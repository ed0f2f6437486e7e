// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <thread>
#include <utility>

#include "dice.h"
#include "layout.h"
#include "tally.h"

namespace kvdirect::stress {

inline constexpr unsigned max_processes = 8;

// How long anything may take that the core promises to end.
inline constexpr auto patience = std::chrono::seconds(20);

// What all processes of a run share: a mapped file.
struct Page {
  Tally tally;
  std::atomic<bool> over{false};
  // By owner and slot, the epoch of the lease that the owner offers; 0: none, or one that ended.
  std::array<std::array<std::atomic<std::uint64_t>, layout::slots>, max_processes> offers{};

  // Maps the file, which is made if need be. Never unmapped.
  static Page& map(const std::filesystem::path& path);
};

// One process of a run: an owner and a reader, each with one engine after the other.
class Process {
 public:
  Process(std::filesystem::path its_directory, unsigned its_number, unsigned of_processes)
      : directory(std::move(its_directory)),
        page(Page::map(directory / "page")),
        number(its_number),
        processes(of_processes) {}

  // Until the run is over.
  void run(std::uint64_t seed);

  [[nodiscard]] std::filesystem::path descriptor(unsigned owner) const {
    return directory / ("descriptor-" + std::to_string(owner));
  }
  // Settings of an engine of this process, other than those that differ from one to the next.
  [[nodiscard]] EngineSettings settings(const std::string& name, Dice& dice) const;

  const std::filesystem::path directory;
  Page& page;
  const unsigned number;
  const unsigned processes;
};

// Closes it from two threads at once.
template <typename Closable>
void close_twice(Closable& it) {
  std::thread other([&it] { it.close(); });
  it.close();
  other.join();
}

}  // namespace kvdirect::stress
