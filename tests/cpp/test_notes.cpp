// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <chrono>
#include <string>
#include <thread>

#include "check.h"
#include "session/notes.h"

namespace kvdirect {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

Token session(unsigned number) {
  Token token{};
  token[0] = static_cast<std::byte>(number);
  token[1] = static_cast<std::byte>(number >> 8);
  return token;
}

Notes::From note(const std::string& reader) { return {reader, 7, Bytes(limits::note)}; }

}  // namespace

TEST(notes_come_in_order_and_once) {
  Notes notes;
  for (const char* reader : {"a", "b", "c"}) CHECK(notes.put(session(1), note(reader)));
  const auto taken = notes.take(Clock::now());
  CHECK(taken.size() == 3 && taken[0].reader == "a" && taken[2].reader == "c" && taken[1].incarnation == 7);
  CHECK(notes.take(Clock::now()).empty());
}

TEST(notes_have_room_for_so_many_of_each_session_and_of_all) {
  Notes notes;
  std::size_t kept = 0;
  for (unsigned number = 0; number < 40; ++number) {
    for (std::size_t i = 0; i <= limits::notes_per_session; ++i) {
      const bool room = i < limits::notes_per_session && kept < limits::notes;
      CHECK(notes.put(session(number), note("reader")) == room);
      kept += room ? 1 : 0;
    }
  }
  CHECK(kept == limits::notes);
  CHECK(notes.take(Clock::now()).size() == limits::notes);
  CHECK(notes.put(session(0), note("again")));
}

TEST(who_takes_notes_waits_for_the_first_or_the_close) {
  Notes notes;
  std::thread writer([&] {
    std::this_thread::sleep_for(20ms);
    notes.put(session(1), note("late"));
  });
  CHECK(notes.take(Clock::now() + 30s).size() == 1);
  writer.join();
  std::thread closer([&] {
    std::this_thread::sleep_for(20ms);
    notes.close();
  });
  CHECK(notes.take(Clock::now() + 30s).empty());
  closer.join();
}

}  // namespace kvdirect
