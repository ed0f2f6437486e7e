// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <array>
#include <limits>

#include "base/codec.h"
#include "check.h"

using kvdirect::Errc;
using kvdirect::Reader;
using kvdirect::Writer;

TEST(codec_values_survive) {
  Writer writer;
  writer.u8(0xfe);
  writer.u16(0xfedc);
  writer.u32(0xfedcba98);
  writer.u64(0xfedcba9876543210);
  writer.i64(std::numeric_limits<std::int64_t>::min());
  writer.f64(-0.1);
  writer.string("name");
  writer.string("");
  const std::array raw{std::byte{1}, std::byte{2}};
  writer.raw(raw);
  const auto bytes = writer.take();
  CHECK(writer.size() == 0);

  Reader reader(bytes);
  CHECK(reader.u8("a") == 0xfe);
  CHECK(reader.u16("b") == 0xfedc);
  CHECK(reader.u32("c") == 0xfedcba98);
  CHECK(reader.u64("d") == 0xfedcba9876543210);
  CHECK(reader.i64("e") == std::numeric_limits<std::int64_t>::min());
  CHECK(reader.f64("f") == -0.1);
  CHECK(reader.string("g") == "name");
  CHECK(reader.string("h").empty());
  const auto view = reader.raw(2, "i");
  CHECK(view[0] == std::byte{1} && view[1] == std::byte{2});
  reader.finish();
}

TEST(codec_is_little_endian) {
  Writer writer;
  writer.u32(0x01020304);
  const auto bytes = writer.take();
  CHECK(bytes == std::vector{std::byte{4}, std::byte{3}, std::byte{2}, std::byte{1}});
}

TEST(codec_never_reads_past_the_end) {
  const std::vector<std::byte> bytes(3);
  CHECK_THROWS_WITH(Reader(bytes, "greeting").u32("port"), Errc::codec,
                    "decode greeting: port needs 4 bytes, 3 are left");
  CHECK_THROWS(Reader(bytes).u64("x"), Errc::codec);
  CHECK_THROWS(Reader(bytes).raw(4, "x"), Errc::codec);
  CHECK_THROWS(Reader(bytes).raw(std::numeric_limits<std::size_t>::max(), "x"), Errc::codec);
  CHECK_THROWS(Reader(bytes).finish(), Errc::codec);
  Reader reader(bytes);
  reader.u16("two");
  CHECK(reader.remaining() == 1);
  CHECK_THROWS(reader.u16("two"), Errc::codec);
  CHECK(reader.u8("still there") == 0);
}

TEST(codec_strings_are_text) {
  const auto decodes = [](std::string_view text) {
    Writer writer;
    writer.string(text);
    const auto bytes = writer.take();
    try {
      return Reader(bytes).string("name") == text;
    } catch (const kvdirect::Error& error) {
      CHECK(error.code() == Errc::codec);
      return false;
    }
  };
  CHECK(decodes("plain"));
  CHECK(decodes("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf"));
  CHECK(!decodes("\xc3"));              // ends early
  CHECK(!decodes("\xa4x"));             // starts in the middle
  CHECK(!decodes("\xc3x"));             // no continuation
  CHECK(!decodes("\xc0\xaf"));          // overlong
  CHECK(!decodes("\xe0\x80\xaf"));      // overlong
  CHECK(!decodes("\xed\xa0\x80"));      // a surrogate
  CHECK(!decodes("\xf4\x90\x80\x80"));  // past the last code point
  CHECK(!decodes("\xff"));
}

TEST(codec_clips_between_characters) {
  CHECK(kvdirect::utf8_prefix("abc", 3) == "abc");
  CHECK(kvdirect::utf8_prefix("abc", 2) == "ab");
  CHECK(kvdirect::utf8_prefix("a\xe2\x82\xac", 3) == "a");
  CHECK(kvdirect::utf8_prefix("\xe2\x82\xac", 2).empty());
}

TEST(codec_bounds_strings) {
  Writer writer;
  writer.string("abcdef");
  const auto bytes = writer.take();
  CHECK(Reader(bytes).string("name", 6) == "abcdef");
  CHECK_THROWS_WITH(Reader(bytes).string("name", 5), Errc::codec, "name has 6 bytes, at most 5 are allowed");
  CHECK_THROWS(Reader(std::span(bytes).first(7)).string("name"), Errc::codec);
  Writer other;
  CHECK_THROWS(other.string(std::string(65536, 'x')), Errc::codec);
}

TEST(codec_holds_counts_against_the_bytes_left) {
  Writer writer;
  writer.u32(3);
  for (int i = 0; i < 11; ++i) writer.u8(0);
  const auto bytes = writer.take();
  CHECK(Reader(bytes).count("things", 3, 3) == 3);
  CHECK_THROWS_WITH(Reader(bytes).count("things", 2, 1), Errc::codec, "things is 3, at most 2 are allowed");
  CHECK_THROWS_WITH(Reader(bytes).count("things", 3, 4), Errc::codec, "which the 11 bytes left cannot hold");
}
