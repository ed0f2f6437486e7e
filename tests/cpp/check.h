// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"

// A registry of tests and two checks. A failed check is printed and the test goes on; an exception that nobody
// expected ends it.
namespace kvdirect::check {

struct Case {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, std::function<void()> body) { cases().push_back({name, std::move(body)}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::printf("%s:%d: %s\n", file, line, what.c_str());
}

// Runs everything whose name contains `filter` and returns the exit status.
inline int run(const std::string& filter) {
  int passed = 0, failed = 0;
  for (const auto& test : cases()) {
    if (std::string(test.name).find(filter) == std::string::npos) continue;
    const int before = failures();
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("unexpected exception: ") + error.what());
    }
    const bool good = failures() == before;
    good ? ++passed : ++failed;
    std::printf("%s %s\n", good ? "ok    " : "FAILED", test.name);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

template <typename Body>
void expect_throw(const char* file, int line, const char* text, Errc code, const std::string& part, Body body) {
  try {
    body();
  } catch (const Error& error) {
    if (error.code() != code) {
      fail(file, line,
           std::string(text) + " threw " + name(error.code()) + " instead of " + name(code) + ": " + error.what());
    } else if (std::string(error.what()).find(part) == std::string::npos) {
      fail(file, line, std::string(text) + " says \"" + error.what() + "\", which lacks \"" + part + "\"");
    }
    return;
  }
  fail(file, line, std::string(text) + " did not throw");
}

}  // namespace kvdirect::check

#define TEST(name)                                                            \
  static void test_##name();                                                  \
  static const kvdirect::check::Register register_##name{#name, test_##name}; \
  static void test_##name()

#define CHECK(...)                                                                            \
  do {                                                                                        \
    if (!(__VA_ARGS__)) kvdirect::check::fail(__FILE__, __LINE__, "CHECK(" #__VA_ARGS__ ")"); \
  } while (false)

// The expression throws kvdirect::Error with this code.
#define CHECK_THROWS(expression, code) CHECK_THROWS_WITH(expression, code, "")

// The same, and its message contains `part`.
#define CHECK_THROWS_WITH(expression, code, part) \
  kvdirect::check::expect_throw(__FILE__, __LINE__, #expression, code, part, [&] { static_cast<void>(expression); })
