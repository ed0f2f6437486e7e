// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/non_copyable.h"
#include "net/reactor.h"
#include "wire/messages.h"

namespace kvdirect {

// Who listens to a stream. Called from within Stream::receive() only.
class StreamListener : NonCopyable {
 public:
  virtual ~StreamListener() = default;

  // A whole message. Throws Error(codec) for one that makes no sense, which ends the stream.
  virtual void on_message(MessageId message, BytesView body) = 0;
  // Where the next `bytes` of this data belong, as far as they fit in `parts`; the number of parts. None: nobody wants
  // them any more, and they are skipped.
  virtual std::size_t place(const DataHeader& data, std::uint64_t bytes, std::span<iovec> parts) = 0;
  // So many bytes are where place() said.
  virtual void landed(const DataHeader& data, std::uint64_t bytes) = 0;
};

// One TCP connection that carries messages, and data straight from the sender's regions into the receiver's. Control
// thread only.
//
// A message is a little-endian u32 length, the message id, three zero bytes and `length` bytes of body; the body of a
// data message begins with its DataHeader.
class Stream : NonCopyable {
 public:
  static constexpr std::size_t frame_bytes = 8;
  static constexpr std::size_t max_parts = 1000;  // the kernel takes 1024 at once

  // Takes over a connected, non-blocking socket; `changed` is called when receive() or flush() has something to do.
  // No message may be longer than `max_message`. Throws Error(transport).
  Stream(Reactor& reactor, Fd fd, std::size_t max_message, Reactor::Handler changed);
  ~Stream();

  // The limit holds for messages that have not begun to arrive.
  void set_max_message(std::size_t bytes) noexcept { _max_message = bytes; }

  // Takes in a bounded part of what has come. Throws Error(peer_lost) when there is nothing more to come, and
  // Error(codec) for what no honest peer sends; either way the stream has ended.
  void receive(StreamListener& listener);

  // Takes in and forgets a bounded part of what has come. False when there is nothing more to come.
  bool drain() noexcept;

  // Sends a copy, now or as soon as the kernel takes it.
  void send(MessageId message, BytesView body);
  // Sends from `parts`, max_parts of them at most, which must stay where they are while `keep` lives. Only when idle.
  void send_data(const DataHeader& data, std::vector<iovec> parts, std::shared_ptr<const void> keep);
  // Sends more of what waits.
  void flush() noexcept;
  // Whether the kernel has taken, and so has read, everything.
  [[nodiscard]] bool idle() const noexcept { return _waiting.empty(); }
  // Bytes of messages that the kernel has not taken.
  [[nodiscard]] std::size_t backlog() const noexcept { return _waiting_bytes; }
  // Gives the connection away, for another thread's stream. Throws Error(codec) if more has come than was taken in.
  [[nodiscard]] Fd release();
  // We will send nothing more; what was sent still arrives.
  void finish() noexcept;

 private:
  struct Outgoing {
    Bytes head;  // and whole messages
    std::vector<iovec> parts;
    std::shared_ptr<const void> keep;
    std::size_t done = 0;  // bytes of head and parts that the kernel has
  };

  void push(Outgoing out);
  void give_up() noexcept;
  // False if the kernel takes no more now.
  bool send_front() noexcept;
  struct Taken {
    std::size_t got = 0;
    std::size_t wanted = 0;
  };
  Taken read(StreamListener& listener);
  void parse(StreamListener& listener);
  bool begin_message(StreamListener& listener);
  bool copy_payload(StreamListener& listener);
  void make_room(std::size_t bytes);

  Reactor& _reactor;
  Fd _fd;
  std::size_t _max_message;
  Bytes _buffer;
  std::size_t _begin = 0;  // what is in the buffer and not yet taken
  std::size_t _end = 0;
  DataHeader _data;                 // of the data message that is arriving,
  std::uint64_t _payload_left = 0;  // of which so much is still to come
  std::deque<Outgoing> _waiting;
  std::size_t _waiting_bytes = 0;
  bool _wants_write = false;
  bool _given_up = false;
};

}  // namespace kvdirect
