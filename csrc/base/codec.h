// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace kvdirect {

// Appends little-endian values to a growing byte string.
class Writer {
 public:
  void u8(std::uint8_t value) { put(value); }
  void u16(std::uint16_t value) { put(value); }
  void u32(std::uint32_t value) { put(value); }
  void u64(std::uint64_t value) { put(value); }
  void i64(std::int64_t value) { put(static_cast<std::uint64_t>(value)); }
  void f64(double value) { put(std::bit_cast<std::uint64_t>(value)); }

  // A u16 length, then the bytes. Error(codec) past 65535.
  void string(std::string_view value) {
    if (value.size() > std::numeric_limits<std::uint16_t>::max()) {
      throw Error(Errc::codec, "a string of " + std::to_string(value.size()) + " bytes is too long to encode",
                  {.operation = "encode", .hint = "Strings may have at most 65535 bytes."});
    }
    put(static_cast<std::uint16_t>(value.size()));
    raw(std::as_bytes(std::span(value)));
  }

  // Only the bytes: the reader must know how many.
  void raw(std::span<const std::byte> value) { _bytes.insert(_bytes.end(), value.begin(), value.end()); }

  // A u32 length, then the bytes.
  void sized(std::span<const std::byte> value) {
    u32(static_cast<std::uint32_t>(value.size()));
    raw(value);
  }

  [[nodiscard]] std::size_t size() const noexcept { return _bytes.size(); }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return _bytes; }
  [[nodiscard]] std::vector<std::byte> take() noexcept { return std::exchange(_bytes, {}); }

 private:
  template <std::unsigned_integral T>
  void put(T value) {
    std::array<std::byte, sizeof(T)> bytes;
    for (std::size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<std::byte>((value >> (8 * i)) & 0xffU);
    raw(bytes);
  }

  std::vector<std::byte> _bytes;
};

// Well-formed UTF-8: no stray or missing continuation bytes, no overlong forms, no surrogates.
[[nodiscard]] inline bool is_utf8(std::span<const std::byte> bytes) noexcept {
  for (std::size_t i = 0; i < bytes.size();) {
    const auto lead = std::to_integer<std::uint32_t>(bytes[i++]);
    if (lead < 0x80) continue;
    if (lead < 0xc2 || lead > 0xf4) return false;
    const std::size_t more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (bytes.size() - i < more) return false;
    std::uint32_t point = lead & (0x3fU >> more);
    for (std::size_t k = 0; k < more; ++k, ++i) {
      const auto next = std::to_integer<std::uint32_t>(bytes[i]);
      if ((next & 0xc0U) != 0x80) return false;
      point = point << 6 | (next & 0x3fU);
    }
    const bool overlong = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
    if (overlong || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) return false;
  }
  return true;
}

// As much of the text as fits in `limit` bytes without cutting a character in two.
[[nodiscard]] inline std::string_view utf8_prefix(std::string_view text, std::size_t limit) noexcept {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0U) == 0x80) --limit;
  return text.substr(0, limit);
}

// Takes little-endian values off the front of bytes it does not own and does not trust. Every method names the field
// it reads; one that does not fit throws Error(codec) and nothing past the end is ever touched.
class Reader {
 public:
  // `subject`: what the bytes claim to be, for messages ("tensor map").
  explicit Reader(std::span<const std::byte> bytes, std::string_view subject = "message")
      : _bytes(bytes), _subject(subject) {}

  std::uint8_t u8(std::string_view field) { return get<std::uint8_t>(field); }
  std::uint16_t u16(std::string_view field) { return get<std::uint16_t>(field); }
  std::uint32_t u32(std::string_view field) { return get<std::uint32_t>(field); }
  std::uint64_t u64(std::string_view field) { return get<std::uint64_t>(field); }
  std::int64_t i64(std::string_view field) { return static_cast<std::int64_t>(get<std::uint64_t>(field)); }
  double f64(std::string_view field) { return std::bit_cast<double>(get<std::uint64_t>(field)); }

  // A u16 length, then text in UTF-8; at most `limit` bytes. Other bytes are refused: messages quote what is read here,
  // and Python could not show them.
  std::string string(std::string_view field, std::size_t limit = std::numeric_limits<std::uint16_t>::max()) {
    const std::size_t length = u16(field);
    if (length > limit) {
      fail(field, "has " + std::to_string(length) + " bytes, at most " + std::to_string(limit) + " are allowed");
    }
    const auto bytes = raw(length, field);
    if (!is_utf8(bytes)) fail(field, "is not valid UTF-8");
    return {reinterpret_cast<const char*>(bytes.data()), length};
  }

  // The next `length` bytes, as a view into the input.
  std::span<const std::byte> raw(std::size_t length, std::string_view field) {
    if (length > remaining()) {
      fail(field, "needs " + std::to_string(length) + " bytes, " + std::to_string(remaining()) + " are left");
    }
    const auto bytes = _bytes.subspan(_position, length);
    _position += length;
    return bytes;
  }

  // A u32 number of things that follow. Refused above `limit`, and where the bytes left cannot hold that many things
  // of at least `bytes_each` (not 0) bytes: a caller may allocate what this returns.
  std::uint32_t count(std::string_view field, std::size_t limit, std::size_t bytes_each) {
    const std::uint32_t number = u32(field);
    if (number > limit) {
      fail(field, "is " + std::to_string(number) + ", at most " + std::to_string(limit) + " are allowed");
    }
    if (number > remaining() / bytes_each) {
      fail(field,
           "is " + std::to_string(number) + ", which the " + std::to_string(remaining()) + " bytes left cannot hold");
    }
    return number;
  }

  // A u32 length, then the bytes; at most `limit` of them.
  std::vector<std::byte> sized(std::string_view field, std::size_t limit) {
    const auto bytes = raw(count(field, limit, 1), field);
    return {bytes.begin(), bytes.end()};
  }

  [[nodiscard]] std::size_t remaining() const noexcept { return _bytes.size() - _position; }

  // Nothing may follow.
  void finish() const {
    if (remaining() != 0) fail("end", "expected, but " + std::to_string(remaining()) + " bytes are left");
  }

  // For values that were read well and mean nothing.
  [[noreturn]] void fail(std::string_view field, std::string_view problem) const {
    std::string message(field);
    message.append(" ").append(problem).append(" (at byte ").append(std::to_string(_position)).append(" of ");
    message.append(std::to_string(_bytes.size())).append(")");
    throw Error(Errc::codec, message,
                {.operation = "decode " + _subject,
                 .hint = "The bytes are damaged, or come from another version or another program."});
  }

 private:
  template <std::unsigned_integral T>
  T get(std::string_view field) {
    const auto bytes = raw(sizeof(T), field);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    return static_cast<T>(value);
  }

  std::span<const std::byte> _bytes;
  std::string _subject;
  std::size_t _position = 0;
};

}  // namespace kvdirect
