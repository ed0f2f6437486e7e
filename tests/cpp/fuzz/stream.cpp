// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "net/stream.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <optional>

#include "target.h"

namespace kvdirect {

namespace {

constexpr std::size_t max_message = 4096;
constexpr std::uint64_t wanted = 1;  // the pull whose data is taken; of others it is skipped

// Everything that a stream tells, however the bytes were cut on the way.
struct Told final : StreamListener {
  void on_message(MessageId message, BytesView body) override {
    HOLDS(message <= last_message_id && message != MessageId::data && body.size() <= max_message);
    log.push_back(static_cast<std::byte>(message));
    log.insert(log.end(), body.begin(), body.end());
  }
  std::size_t place(const DataHeader& data, std::uint64_t bytes, std::span<iovec> parts) override {
    HOLDS(bytes > 0 && bytes <= limits::max_segment);
    if (data.pull != wanted) return 0;
    // In pieces of seven bytes, as far as they reach.
    std::size_t count = 0;
    for (std::uint64_t done = 0; done < bytes && done < memory.size() && count < parts.size();) {
      const std::uint64_t length = std::min({bytes - done, memory.size() - done, std::uint64_t{7}});
      parts[count++] = {memory.data() + done, length};
      done += length;
    }
    return count;
  }
  void landed(const DataHeader& data, std::uint64_t bytes) override {
    HOLDS(data.pull == wanted && bytes <= memory.size());
    log.insert(log.end(), memory.begin(), memory.begin() + static_cast<std::ptrdiff_t>(bytes));
  }

  Bytes memory = Bytes(1000);
  Bytes log;
};

// What is told of these bytes when they arrive in pieces of these sizes, in turn; and how it ended.
std::pair<Bytes, std::optional<Errc>> tell(BytesView bytes, BytesView sizes) {
  std::array<int, 2> ends{};
  HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0);
  const Fd sender(ends[0]);
  Reactor reactor;
  Told told;
  Stream stream(reactor, Fd(ends[1]), max_message, [](std::uint32_t) {});
  std::optional<Errc> ended;
  std::size_t turn = 0;
  while (!bytes.empty() && !ended) {
    const std::size_t size =
        sizes.empty() ? bytes.size() : 1 + std::to_integer<std::size_t>(sizes[turn++ % sizes.size()]);
    const BytesView piece = bytes.first(std::min(size, bytes.size()));
    bytes = bytes.subspan(piece.size());
    HOLDS(write(sender.get(), piece.data(), piece.size()) == static_cast<ssize_t>(piece.size()));
    try {
      stream.receive(told);
    } catch (const Error& error) {
      HOLDS(error.code() == Errc::codec);
      ended = error.code();
    }
  }
  return {std::move(told.log), ended};
}

}  // namespace

// However what arrives is cut, the same is told of it.
FUZZ_TARGET(stream) {
  fuzz::Input parts(input);
  const BytesView sizes = parts.take(1 + parts.below(8));
  const BytesView bytes = parts.take(64 << 10);
  HOLDS(tell(bytes, {}) == tell(bytes, sizes));
}

}  // namespace kvdirect
