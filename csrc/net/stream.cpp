// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "net/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/codec.h"
#include "base/fetch_ahead.h"
#include "net/tcp_socket.h"

namespace kvdirect {

namespace {

constexpr std::size_t buffer_bytes = 16 * 1024;
// So that one busy peer cannot keep the others waiting.
constexpr std::size_t at_once = 4 << 20;
constexpr std::size_t drained_at_once = 1 << 18;
// More than any honest peer leaves unread.
constexpr std::size_t max_waiting_bytes = 8 << 20;
// A host that is gone is noticed after this much silence, or this much unacknowledged data.
constexpr int keepalive_idle_s = 10;
constexpr int keepalive_interval_s = 5;
constexpr int keepalive_probes = 3;
constexpr int unacknowledged_ms = 30'000;
// Between processes of one host: as much as the processors' caches keep until the other side reads it. With megabytes
// on their way, as the kernel would have it, a pull costs a third more. Across hosts the kernel knows better.
constexpr int nearby_send_bytes = 768 * 1024;
// There is no path to find out about; what paces itself (bbr) waits for timers, and a pull costs up to twice as much.
// The kernel has this one always, for everybody.
constexpr std::string_view nearby_control = "reno";

Error lost(int status) {
  return {Errc::peer_lost,
          "the connection ended",
          {.operation = "receive", .status = status == 0 ? "closed by the other side" : strerror(status)}};
}

bool stays_on_this_host(int fd) noexcept {
  sockaddr_storage here{};
  sockaddr_storage there{};
  socklen_t here_length = sizeof here;
  socklen_t there_length = sizeof there;
  return getsockname(fd, reinterpret_cast<sockaddr*>(&here), &here_length) == 0 &&
         getpeername(fd, reinterpret_cast<sockaddr*>(&there), &there_length) == 0 &&
         TcpAddress::of(here).host == TcpAddress::of(there).host;
}

void tune(int fd) noexcept {
  const auto set = [fd](int level, int name, int value) { setsockopt(fd, level, name, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, keepalive_idle_s);
  set(IPPROTO_TCP, TCP_KEEPINTVL, keepalive_interval_s);
  set(IPPROTO_TCP, TCP_KEEPCNT, keepalive_probes);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, unacknowledged_ms);
  if (!stays_on_this_host(fd)) return;
  set(SOL_SOCKET, SO_SNDBUF, nearby_send_bytes);
  setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, nearby_control.data(), nearby_control.size());
}

Bytes frame(MessageId message, std::size_t length) {
  Writer writer;
  writer.u32(static_cast<std::uint32_t>(length));
  writer.u8(static_cast<std::uint8_t>(message));
  writer.raw(std::array<std::byte, 3>{});
  return writer.take();
}

std::size_t total(std::span<const iovec> parts) {
  std::size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return bytes;
}

}  // namespace

Stream::Stream(Reactor& reactor, Fd fd, std::size_t max_message, Reactor::Handler changed)
    : _reactor(reactor), _fd(std::move(fd)), _max_message(max_message), _buffer(buffer_bytes) {
  tune(_fd.get());
  _reactor.add(_fd.get(), std::move(changed));
}

Stream::~Stream() {
  if (_fd) _reactor.remove(_fd.get());
}

void Stream::send(MessageId message, BytesView body) {
  Bytes bytes = frame(message, body.size());
  bytes.insert(bytes.end(), body.begin(), body.end());
  push({std::move(bytes), {}, {}});
}

void Stream::send_data(const DataHeader& data, std::vector<iovec> parts, std::shared_ptr<const void> keep) {
  const Bytes header = data.encode();
  Bytes bytes = frame(MessageId::data, header.size() + total(parts));
  bytes.insert(bytes.end(), header.begin(), header.end());
  push({std::move(bytes), std::move(parts), std::move(keep)});
}

void Stream::push(Outgoing out) {
  if (_given_up) return;
  _waiting_bytes += out.head.size();
  _waiting.push_back(std::move(out));
  // Somebody asks and asks and never reads the answers.
  if (_waiting_bytes > max_waiting_bytes) give_up();
  if (!_wants_write) flush();
}

void Stream::flush() noexcept {
  while (!_waiting.empty() && send_front()) {
  }
  if (_wants_write == !_waiting.empty()) return;
  _wants_write = !_waiting.empty();
  _reactor.want_write(_fd.get(), _wants_write);
}

bool Stream::send_front() noexcept {
  Outgoing& out = _waiting.front();
  std::array<iovec, max_parts + 1> parts{};
  std::size_t count = 0;
  std::size_t skip = out.done;
  const auto add = [&](std::byte* data, std::size_t length) {
    const std::size_t gone = std::min(skip, length);
    skip -= gone;
    if (gone < length) parts.at(count++) = {data + gone, length - gone};
  };
  add(out.head.data(), out.head.size());
  for (const iovec& part : out.parts) add(static_cast<std::byte*>(part.iov_base), part.iov_len);
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  const ssize_t sent = sendmsg(_fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno == EINTR) return true;
  if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
  if (sent < 0) {
    give_up();
    return false;
  }
  out.done += static_cast<std::size_t>(sent);
  if (static_cast<std::size_t>(sent) < total(std::span(parts).first(count))) return false;
  _waiting_bytes -= out.head.size();
  _waiting.pop_front();
  return true;
}

// receive() will say so too; until then nothing more goes out, and nothing is kept.
void Stream::give_up() noexcept {
  _given_up = true;
  ::shutdown(_fd.get(), SHUT_RDWR);
  _waiting.clear();
  _waiting_bytes = 0;
}

Fd Stream::release() {
  if (_begin != _end || _payload_left > 0) throw Error(Errc::codec, "more came than the message that ends this stream");
  _given_up = true;
  _reactor.remove(_fd.get());
  return std::move(_fd);
}

void Stream::finish() noexcept { ::shutdown(_fd.get(), SHUT_WR); }

void Stream::receive(StreamListener& listener) {
  for (std::size_t received = 0; received < at_once;) {
    const auto [got, wanted] = read(listener);
    if (got == 0) return;
    received += got;
    parse(listener);
    // That was all there is: asking once more would only be told so.
    if (got < wanted) return;
  }
}

bool Stream::drain() noexcept {
  for (std::size_t drained = 0; drained < drained_at_once;) {
    const ssize_t got = recv(_fd.get(), _buffer.data(), _buffer.size(), MSG_DONTWAIT | MSG_TRUNC);
    if (got > 0) drained += static_cast<std::size_t>(got);
    if (got > 0 || (got < 0 && errno == EINTR)) continue;
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }
  return true;
}

// Payload goes where it belongs without a copy on the way, and with it as much of the next message as says what that
// is; all else goes into the buffer.
Stream::Taken Stream::read(StreamListener& listener) {
  std::array<iovec, max_parts + 1> parts{};
  std::size_t count = 0;
  if (_payload_left > 0) {
    count = listener.place(_data, _payload_left, std::span(parts).first(max_parts));
    if (count == 0) parts.at(count++) = {_buffer.data(), std::min<std::size_t>(_payload_left, _buffer.size())};
    // The kernel copies into one after the other, and waits for the memory of each.
    for (const iovec& part : std::span(parts).first(count)) fetch_ahead(part.iov_base, part.iov_len);
  }
  const std::size_t payload = total(std::span(parts).first(count));
  const bool skips = count == 1 && parts.front().iov_base == _buffer.data();
  if (payload == _payload_left && !skips) {
    const std::size_t room = _buffer.size() - _end;
    const std::size_t next = payload > 0 ? std::min(room, frame_bytes + DataHeader::bytes) : room;
    parts.at(count++) = {_buffer.data() + _end, next};
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  const ssize_t result = recvmsg(_fd.get(), &message, MSG_DONTWAIT);
  if (result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return {};
  if (result <= 0) throw lost(result == 0 ? 0 : errno);
  const auto got = static_cast<std::size_t>(result);
  const std::size_t placed = std::min(got, payload);
  _end += got - placed;
  if (placed > 0) {
    _payload_left -= placed;
    if (!skips) listener.landed(_data, placed);
    _data.offset += placed;
  }
  return {got, total(std::span(parts).first(count))};
}

void Stream::parse(StreamListener& listener) {
  while (_begin < _end && (_payload_left > 0 ? copy_payload(listener) : begin_message(listener))) {
  }
  if (_begin == _end) _begin = _end = 0;
}

// The payload's beginning, which came together with what was before it.
bool Stream::copy_payload(StreamListener& listener) {
  const std::uint64_t here = std::min<std::uint64_t>(_end - _begin, _payload_left);
  std::array<iovec, max_parts> parts{};
  const std::size_t count = listener.place(_data, here, parts);
  std::uint64_t copied = 0;
  for (const iovec& part : std::span(parts).first(count)) {
    std::memcpy(part.iov_base, _buffer.data() + _begin + copied, part.iov_len);
    copied += part.iov_len;
  }
  if (count > 0) listener.landed(_data, copied);
  if (count == 0) copied = here;
  _begin += copied;
  _payload_left -= copied;
  _data.offset += copied;
  return true;
}

// False if more of it has to come first.
bool Stream::begin_message(StreamListener& listener) {
  const BytesView here = BytesView(_buffer).subspan(_begin, _end - _begin);
  if (here.size() < frame_bytes) {
    make_room(frame_bytes);
    return false;
  }
  Reader reader(here.first(frame_bytes), "frame");
  const std::size_t length = reader.u32("length");
  const std::uint8_t id = reader.u8("message id");
  if (id > static_cast<std::uint8_t>(last_message_id)) reader.fail("message id", "is unknown");
  const auto message = static_cast<MessageId>(id);
  if (message == MessageId::data) {
    if (length <= DataHeader::bytes || length > DataHeader::bytes + limits::max_segment) {
      reader.fail("length", "is not that of a data message");
    }
    make_room(frame_bytes + DataHeader::bytes);
    if (here.size() < frame_bytes + DataHeader::bytes) return false;
    _data = DataHeader::decode(BytesView(_buffer).subspan(_begin + frame_bytes, DataHeader::bytes));
    _payload_left = length - DataHeader::bytes;
    _begin += frame_bytes + DataHeader::bytes;
    return true;
  }
  if (length > _max_message) reader.fail("length", "is above the limit");
  make_room(frame_bytes + length);
  if (here.size() < frame_bytes + length) return false;
  const BytesView body = BytesView(_buffer).subspan(_begin + frame_bytes, length);
  _begin += frame_bytes + length;
  listener.on_message(message, body);
  return true;
}

// The buffer can hold so many bytes from where the next message begins.
void Stream::make_room(std::size_t bytes) {
  if (_begin + bytes <= _buffer.size()) return;
  std::memmove(_buffer.data(), _buffer.data() + _begin, _end - _begin);
  _end -= std::exchange(_begin, 0);
  if (bytes > _buffer.size()) _buffer.resize(bytes);
}

}  // namespace kvdirect
