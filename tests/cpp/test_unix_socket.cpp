// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "check.h"
#include "net/unix_socket.h"

namespace kvdirect {
namespace {

// Engines of one host start together: each sweeps while the others open theirs.
TEST(a_sweep_leaves_sockets_that_are_being_opened) {
  std::array<char, 32> name{"/tmp/kvd-sweep-XXXXXX"};
  CHECK(mkdtemp(name.data()) != nullptr);
  const std::string directory(name.data());
  std::atomic<bool> stop{false};
  std::thread sweeper([&] {
    while (!stop) sweep_sockets(directory);
  });
  int lost = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::string path = directory + "/" + std::to_string(i % 4) + ".sock";
    const Fd listening = listen_at(path);
    if (access(path.c_str(), F_OK) != 0) ++lost;
    unlink(path.c_str());
  }
  stop = true;
  sweeper.join();
  std::filesystem::remove_all(directory);
  CHECK(lost == 0);
}

}  // namespace
}  // namespace kvdirect
