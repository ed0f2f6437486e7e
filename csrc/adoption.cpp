// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "adoption.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "error.h"
#include "large_pages.h"

namespace kvdirect {

namespace {

// Twice this much is resident for a moment, and no more: a memory limit must allow for it.
constexpr std::uintptr_t piece = std::uintptr_t{64} << 20;

std::uintptr_t number(const std::byte* address) { return reinterpret_cast<std::uintptr_t>(address); }

Error refusal(const std::string& why) { return {Errc::lane, why, {.operation = "adopt"}}; }

// One entry of /proc/self/smaps. (proc_pid_smaps(5))
struct Mapping {
  std::uintptr_t first = 0;
  std::uintptr_t last = 0;
  std::string permissions;
  std::string path;
  std::string flags;
  bool large_pages = false;
};

// Of all mappings between two addresses, calls `look` with each.
template <typename Look>
void for_each_mapping(std::uintptr_t first, std::uintptr_t last, const Look& look) {
  std::ifstream file("/proc/self/smaps");
  Mapping mapping;
  std::string line;
  while (std::getline(file, line)) {
    unsigned long from = 0;
    unsigned long to = 0;
    unsigned long kilobytes = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &from, &to) == 2) {
      mapping = {from, to, {}, {}, {}, false};
      std::string span, offset, device, inode;
      std::istringstream(line) >> span >> mapping.permissions >> offset >> device >> inode >> mapping.path;
    } else if (std::sscanf(line.c_str(), "AnonHugePages: %lu kB", &kilobytes) == 1) {
      mapping.large_pages = kilobytes > 0;
    } else if (line.starts_with("VmFlags:")) {  // the last line of an entry
      mapping.flags = line.substr(sizeof "VmFlags:" - 1) + ' ';
      if (mapping.first < last && first < mapping.last) look(mapping);
    }
  }
}

void check(const Mapping& mapping) {
  const auto refuse_if = [](bool bad, const std::string& why) {
    if (bad) throw refusal("it is " + why);
  };
  const bool plain = mapping.path.empty() || mapping.path.starts_with("[anon:") || mapping.path == "[heap]";
  refuse_if(mapping.permissions != "rw-p" || !plain, "not private memory of this process: " + mapping.permissions +
                                                         (mapping.path.empty() ? "" : " " + mapping.path));
  const auto flagged = [&mapping](const char* flag) {
    return mapping.flags.find(std::string(" ") + flag + ' ') != std::string::npos;
  };
  refuse_if(flagged("lo"), "locked");
  refuse_if(flagged("dc"), "kept from forks: a device may have registered it");
  refuse_if(flagged("io") || flagged("pf") || flagged("mm"), "a device's");
  refuse_if(flagged("ht"), "on reserved large pages");
  refuse_if(flagged("um") || flagged("uw") || flagged("ui"), "watched by userfaultfd");
}

bool has_large_pages(const std::byte* first, const std::byte* last) {
  bool any = false;
  for_each_mapping(number(first), number(last), [&any](const Mapping& mapping) { any = any || mapping.large_pages; });
  return any;
}

// Addresses of `bytes` that lie as `like` does within a large page. Exactly those: what was moved away from here may be
// somebody else's a moment later.
class Scratch {
 public:
  Scratch(const std::byte* like, std::size_t bytes) : _bytes(bytes) {
    const std::size_t with_slack = bytes + 2 * large_page;
    void* range = mmap(nullptr, with_slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return;
    auto* const begin = static_cast<std::byte*>(range);
    auto* const aligned = reinterpret_cast<std::byte*>((number(begin) + large_page - 1) / large_page * large_page);
    _at = aligned + number(like) % large_page;
    if (_at > begin) munmap(begin, static_cast<std::size_t>(_at - begin));
    munmap(_at + bytes, static_cast<std::size_t>((begin + with_slack) - (_at + bytes)));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (_at != nullptr) munmap(_at, _bytes);
  }
  // Null if there is none.
  [[nodiscard]] std::byte* at() const noexcept { return _at; }
  // What was mapped there is elsewhere now.
  void moved() noexcept { _at = nullptr; }

 private:
  std::size_t _bytes;
  std::byte* _at = nullptr;
};

// The end of the piece that begins at `at`.
std::byte* piece_end(std::byte* at, std::byte* last) {
  const std::uintptr_t next = (number(at) / piece + 1) * piece;
  return next < number(last) ? reinterpret_cast<std::byte*>(next) : last;
}

// Replaces a piece by new pages with the same contents. False, and errno, with everything as it was.
bool replace(std::byte* first, std::byte* last, int fd, std::size_t file_offset, bool insist_on_large) {
  const auto bytes = static_cast<std::size_t>(last - first);
  Scratch scratch(first, bytes);
  if (scratch.at() == nullptr) return false;
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  if (mmap(scratch.at(), bytes, PROT_READ | PROT_WRITE, kind | MAP_FIXED, fd, static_cast<off_t>(file_offset)) ==
      MAP_FAILED) {
    return false;
  }
  if (!make_large(scratch.at(), scratch.at() + bytes) && insist_on_large) {
    errno = ENOMEM;
    return false;
  }
  std::memcpy(scratch.at(), first, bytes);
  if (mremap(scratch.at(), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, first) == MAP_FAILED) return false;
  scratch.moved();
  return true;
}

}  // namespace

void check_adoptable(const std::byte* first, const std::byte* last) {
  std::uintptr_t reached = number(first);
  for_each_mapping(number(first), number(last), [&reached](const Mapping& mapping) {
    if (mapping.first > reached) throw refusal("it has a gap");
    check(mapping);
    reached = mapping.last;
  });
  if (reached < number(last)) throw refusal("it has a gap");
}

void move_to_file(std::byte* first, std::byte* last, int fd, std::size_t file_offset) {
  const bool insist_on_large = has_large_pages(first, last);
  for (std::byte* at = first; at < last;) {
    std::byte* const next = piece_end(at, last);
    if (!replace(at, next, fd, file_offset + static_cast<std::size_t>(at - first), insist_on_large)) {
      const std::string status = strerror(errno);
      move_from_file(first, at);
      throw Error(Errc::lane, "the kernel refused to move memory onto a file",
                  {.operation = "adopt", .status = status});
    }
    at = next;
  }
}

bool move_from_file(std::byte* first, std::byte* last) noexcept {
  bool all = true;
  for (std::byte* at = first; at < last;) {
    std::byte* const next = piece_end(at, last);
    all = replace(at, next, -1, 0, false) && all;
    at = next;
  }
  return all;
}

}  // namespace kvdirect
