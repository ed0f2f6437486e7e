// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include "base/error.h"
#include "yardsticks.h"

// What the machine's memcpy and a plain socket reach, with none of Python's cost per block.
// Whoever calls these answers for addresses and offsets.
namespace nb = nanobind;
using namespace nb::literals;

namespace kvdirect {

namespace {

using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OffsetSpan = std::span<const std::int64_t>;
using Clock = std::chrono::steady_clock;

constexpr std::size_t most_parts = 1024;  // what the kernel takes at once
constexpr unsigned most_threads = 64;

OffsetSpan span_of(const Offsets& offsets) { return {offsets.data(), offsets.size()}; }

std::byte* at(std::uintptr_t base, std::int64_t offset) {
  return reinterpret_cast<std::byte*>(base) + offset;  // NOLINT: the caller's word is all there is
}

void copy_blocks(std::uintptr_t to, std::uintptr_t from, OffsetSpan to_offsets, OffsetSpan from_offsets,
                 std::size_t block_bytes) {
  for (std::size_t i = 0; i < to_offsets.size(); ++i) {
    std::memcpy(at(to, to_offsets[i]), at(from, from_offsets[i]), block_bytes);
  }
}

void gather_memcpy(std::uintptr_t to, std::uintptr_t from, const Offsets& to_offsets, const Offsets& from_offsets,
                   std::size_t block_bytes, unsigned threads) {
  const OffsetSpan targets = span_of(to_offsets);
  const OffsetSpan sources = span_of(from_offsets);
  if (targets.size() != sources.size()) throw Error(Errc::config, "the two lists of offsets differ in length");
  if (threads < 1 || threads > most_threads) throw Error(Errc::config, "threads: expected 1 to 64");
  const nb::gil_scoped_release unlocked;
  const std::size_t share = (targets.size() + threads - 1) / threads;
  std::vector<std::jthread> others;
  for (unsigned i = 1; i < threads; ++i) {
    const std::size_t begin = std::min(targets.size(), share * i);
    const std::size_t length = std::min(share, targets.size() - begin);
    others.emplace_back(
        [=] { copy_blocks(to, from, targets.subspan(begin, length), sources.subspan(begin, length), block_bytes); });
  }
  const std::size_t own = std::min(share, targets.size());
  copy_blocks(to, from, targets.first(own), sources.first(own), block_bytes);
}

// The blocks as iovecs, neighbours joined, a bounded number at a time.
class Parts {
 public:
  Parts(std::uintptr_t base, OffsetSpan offsets, std::size_t block_bytes)
      : _base(base), _offsets(offsets), _block_bytes(block_bytes) {
    fill();
  }

  [[nodiscard]] bool empty() const noexcept { return _first == _count; }

  [[nodiscard]] msghdr message() noexcept {
    msghdr header{};
    header.msg_iov = _parts.data() + _first;
    header.msg_iovlen = _count - _first;
    return header;
  }

  // So many bytes have gone.
  void skip(std::size_t bytes) {
    while (bytes > 0) {
      iovec& part = _parts[_first];
      const std::size_t gone = std::min(bytes, part.iov_len);
      part.iov_base = static_cast<std::byte*>(part.iov_base) + gone;
      part.iov_len -= gone;
      bytes -= gone;
      if (part.iov_len == 0) ++_first;
    }
    if (_first == _count) fill();
  }

 private:
  void fill() {
    _first = _count = 0;
    for (; _next < _offsets.size(); ++_next) {
      std::byte* const block = at(_base, _offsets[_next]);
      if (_count > 0) {
        iovec& last = _parts[_count - 1];
        if (static_cast<std::byte*>(last.iov_base) + last.iov_len == block) {
          last.iov_len += _block_bytes;
          continue;
        }
      }
      if (_count == _parts.size()) return;
      _parts[_count++] = {block, _block_bytes};
    }
  }

  std::uintptr_t _base;
  OffsetSpan _offsets;
  std::size_t _block_bytes;
  std::size_t _next = 0;
  std::array<iovec, most_parts> _parts{};
  std::size_t _first = 0;
  std::size_t _count = 0;
};

Error socket_failed(const char* what, int status) {
  return Error(Errc::transport, std::string(what) + " of the benchmark failed",
               {.operation = what, .status = strerror(status)});
}

void wait_for(int fd, short event, Clock::time_point deadline, const char* what) {
  pollfd waiting{fd, event, 0};
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  const int ready = poll(&waiting, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000)));
  if (ready == 0) throw socket_failed(what, ETIMEDOUT);
  if (ready < 0 && errno != EINTR) throw socket_failed(what, errno);
}

template <typename Move>
void move_all(int fd, Parts parts, double seconds, short event, const char* what, Move move) {
  const auto span = std::chrono::duration<double>(std::clamp(seconds, 0.0, 3600.0));
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(span);
  while (!parts.empty()) {
    msghdr header = parts.message();
    const ssize_t moved = move(fd, &header);
    if (moved > 0) {
      parts.skip(static_cast<std::size_t>(moved));
    } else if (moved == 0) {
      throw socket_failed(what, ECONNRESET);
    } else if (errno == EAGAIN) {
      wait_for(fd, event, deadline, what);
    } else if (errno != EINTR) {
      throw socket_failed(what, errno);
    }
  }
}

void socket_send(int fd, std::uintptr_t base, const Offsets& offsets, std::size_t block_bytes, double seconds) {
  const OffsetSpan blocks = span_of(offsets);
  const nb::gil_scoped_release unlocked;
  move_all(fd, Parts(base, blocks, block_bytes), seconds, POLLOUT, "sendmsg",
           [](int to, msghdr* message) { return sendmsg(to, message, MSG_NOSIGNAL); });
}

void socket_receive(int fd, std::uintptr_t base, const Offsets& offsets, std::size_t block_bytes, double seconds) {
  const OffsetSpan blocks = span_of(offsets);
  const nb::gil_scoped_release unlocked;
  move_all(fd, Parts(base, blocks, block_bytes), seconds, POLLIN, "recvmsg",
           [](int from, msghdr* message) { return recvmsg(from, message, 0); });
}

}  // namespace

void bind_memory_and_sockets(nb::module_& module) {
  module.def("gather_memcpy", &gather_memcpy, "to"_a, "from_"_a, "to_offsets"_a, "from_offsets"_a, "block_bytes"_a,
             "threads"_a, "memcpy of blocks between two memories, given by address, by so many threads.");
  module.def("socket_send", &socket_send, "fd"_a, "base"_a, "offsets"_a, "block_bytes"_a, "seconds"_a,
             "Sends blocks of a memory over a connected socket, in order.");
  module.def("socket_receive", &socket_receive, "fd"_a, "base"_a, "offsets"_a, "block_bytes"_a, "seconds"_a,
             "Receives blocks into a memory from a connected socket, in order.");
}

}  // namespace kvdirect
