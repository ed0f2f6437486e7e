// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <new>
#include <thread>

#include "owner.h"
#include "reader.h"

namespace kvdirect::stress {

Page& Page::map(const std::filesystem::path& path) {
  const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd || ftruncate(fd.get(), sizeof(Page)) != 0) throw kernel_refused("open the page");
  void* at = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) throw kernel_refused("map the page");
  return *static_cast<Page*>(at);  // zeroes are what all of it begins with
}

EngineSettings Process::settings(const std::string& name, Dice& dice) const {
  EngineSettings settings;
  settings.name = name + "-" + std::to_string(number);
  settings.listen = "lo";
  settings.lanes.assign(lanes.begin(), lanes.end());
  settings.shm_directory = directory / "sockets";
  settings.segment_bytes = std::uint64_t{16384} << dice.below(5);
  settings.copy_threads = 1 + static_cast<unsigned>(dice.below(3));
  settings.message_streams = 1 + static_cast<unsigned>(dice.below(3));
  settings.lease_slots = layout::slots;
  settings.max_hold = dice.between(0.1, 0.6);
  return settings;
}

void Process::run(std::uint64_t seed) {
  Dice dice(seed);
  // Errors that the parts below do not expect end the process.
  const auto lives = [this](Dice own, const std::function<void(Dice&, Clock::duration)>& live) {
    while (!page.over) live(own, own.seconds(0.6, 1.5));
  };
  std::thread owner(lives, Dice(dice.seed()),
                    [this](Dice& own, Clock::duration life) { Owner(*this, own).live(life); });
  lives(Dice(dice.seed()), [this](Dice& own, Clock::duration life) { Reader(*this, own).live(life); });
  owner.join();
}

}  // namespace kvdirect::stress
