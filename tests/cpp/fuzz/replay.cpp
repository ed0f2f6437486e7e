// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
//
// Feeds a target with files: kvdirect_fuzz TARGET [FILE or FOLDER]...; without any, names the targets.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "target.h"

namespace {

using namespace kvdirect::fuzz;  // NOLINT: this program's own

void feed(const Target& target, const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  // A copy of exactly that size, so that a sanitizer sees a read past it.
  const std::vector<char> bytes(text.begin(), text.end());
  target.run(std::as_bytes(std::span(bytes)));
}

int replay(const Target& target, std::span<char*> paths) {
  std::size_t fed = 0;
  for (const char* path : paths) {
    if (!std::filesystem::is_directory(path)) {
      feed(target, path);
      ++fed;
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      feed(target, entry.path());
      ++fed;
    }
  }
  std::printf("%zu inputs for %s\n", fed, target.name.data());
  return fed > 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  for (const Target& target : targets()) {
    if (count == 1) std::printf("%s\n", target.name.data());
    if (count > 1 && target.name == arguments[1]) return replay(target, std::span(arguments + 2, arguments + count));
  }
  return count == 1 ? 0 : 2;
}
