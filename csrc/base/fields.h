// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/codec.h"

// A message says once which fields it has, in which order, and what they must hold: in a template
// `fields(io, message)`, where `io` is a FieldWriter and the message const, or a FieldReader and the message still to
// be filled. Only a reader has limits and refuses values.
namespace kvdirect {

// Whether T is the message, const or not: it tells apart the overloads of `fields`.
template <typename T, typename Message>
concept Is = std::same_as<std::remove_const_t<T>, Message>;

struct FieldWriter : Writer {
  static constexpr bool reads = false;

  void u8(std::unsigned_integral auto value, std::string_view) { Writer::u8(static_cast<std::uint8_t>(value)); }
  void u32(std::uint32_t value, std::string_view) { Writer::u32(value); }
  void u64(std::uint64_t value, std::string_view) { Writer::u64(value); }
  void f64(double value, std::string_view) { Writer::f64(value); }
  void raw(std::span<const std::byte> value, std::string_view) { Writer::raw(value); }
  void sized(std::span<const std::byte> value, std::string_view, std::size_t) { Writer::sized(value); }
  void string(std::string_view text, std::string_view, std::size_t) { Writer::string(text); }
  // As much of the text as fits.
  void clipped(std::string_view text, std::string_view, std::size_t limit) { Writer::string(utf8_prefix(text, limit)); }
  template <typename Enum>
  void choice(Enum value, Enum /*last*/, std::string_view) {
    Writer::u8(static_cast<std::uint8_t>(value));
  }
  void optional(const auto& message, std::string_view) {
    Writer::u8(message.has_value() ? 1 : 0);
    if (message) fields(*this, *message);
  }
  std::size_t count(std::size_t number, std::string_view, std::size_t, std::size_t) {
    Writer::u32(static_cast<std::uint32_t>(number));
    return number;
  }
  void resize(const auto& /*things*/, std::size_t) {}
  void require(bool, std::string_view, std::string_view) {}
};

struct FieldReader : Reader {
  static constexpr bool reads = true;
  using Reader::Reader;

  template <std::unsigned_integral T>
  void u8(T& value, std::string_view field) {
    value = Reader::u8(field);
  }
  void u32(std::uint32_t& value, std::string_view field) { value = Reader::u32(field); }
  void u64(std::uint64_t& value, std::string_view field) { value = Reader::u64(field); }
  void f64(double& value, std::string_view field) { value = Reader::f64(field); }
  template <std::size_t size>
  void raw(std::array<std::byte, size>& value, std::string_view field) {
    std::ranges::copy(Reader::raw(size, field), value.begin());
  }
  void sized(std::vector<std::byte>& value, std::string_view field, std::size_t limit) {
    value = Reader::sized(field, limit);
  }
  void string(std::string& text, std::string_view field, std::size_t limit) { text = Reader::string(field, limit); }
  void clipped(std::string& text, std::string_view field, std::size_t limit) { string(text, field, limit); }
  // One byte, up to `last`.
  template <typename Enum>
  void choice(Enum& value, Enum last, std::string_view field) {
    const std::uint8_t number = Reader::u8(field);
    if (number > static_cast<std::uint8_t>(last)) fail(field, "is " + std::to_string(number) + ", which is unknown");
    value = static_cast<Enum>(number);
  }
  // A byte that says whether the message follows.
  template <typename Message>
  void optional(std::optional<Message>& message, std::string_view flag) {
    const std::uint8_t follows = Reader::u8(flag);
    require(follows <= 1, flag, "is neither 0 nor 1");
    if (follows == 1) fields(*this, message.emplace());
  }
  std::size_t count(std::size_t /*number*/, std::string_view field, std::size_t limit, std::size_t bytes_each) {
    return Reader::count(field, limit, bytes_each);
  }
  void resize(auto& things, std::size_t number) { things.resize(number); }
  void require(bool holds, std::string_view field, std::string_view problem) {
    if (!holds) fail(field, problem);
  }
};

// A number, as Reader::count reads it, then so many things, each as `each` says.
void list(auto& io, auto& things, std::string_view field, std::size_t limit, std::size_t bytes_each, auto each) {
  io.resize(things, io.count(things.size(), field, limit, bytes_each));
  for (auto& thing : things) each(thing);
}

// The same of things that have `fields`.
void list(auto& io, auto& things, std::string_view field, std::size_t limit, std::size_t bytes_each) {
  list(io, things, field, limit, bytes_each, [&io](auto& thing) { fields(io, thing); });
}

[[nodiscard]] std::vector<std::byte> encoded(const auto& message) {
  FieldWriter io;
  fields(io, message);
  return io.take();
}

// `subject`: as for a Reader.
template <typename Message>
[[nodiscard]] Message decoded(std::span<const std::byte> bytes, std::string_view subject) {
  FieldReader io(bytes, subject);
  Message message;
  fields(io, message);
  io.finish();
  return message;
}

}  // namespace kvdirect
