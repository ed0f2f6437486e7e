// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "base/codec.h"
#include "check.h"
#include "message/lease_extents.h"
#include "message/receive_cursor.h"
#include "wire/descriptor.h"
#include "wire/messages.h"

namespace kvdirect {

namespace {

Token token(unsigned char seed) {
  Token value{};
  for (std::size_t i = 0; i < value.size(); ++i) value[i] = static_cast<std::byte>(seed + i);
  return value;
}

Nonce nonce(unsigned char seed) {
  Nonce value{};
  for (std::size_t i = 0; i < value.size(); ++i) value[i] = static_cast<std::byte>(seed + i);
  return value;
}

Hello hello() {
  Hello value;
  value.owner_incarnation = 7;
  value.reader_incarnation = 8;
  value.reader_name = "decode-0";
  value.identity = Bytes(3, std::byte{3});
  value.stream = 2;
  value.session = token(9);
  value.not_after = 1'000'000;
  value.nonce = nonce(10);
  return value;
}

Welcome welcome() {
  Welcome value{token(3), 4, HostAccess{42, 0x1000, 0x2000, 65536, 0x3000, token(4), {0x4000, 0x5000}}};
  value.rdma = RdmaAccess{Bytes(40, std::byte{5}),
                          {0x1000, Bytes(9, std::byte{6})},
                          64,
                          {0x2000, Bytes(9, std::byte{7})},
                          token(5),
                          {{0x3000, Bytes(9, std::byte{8})}}};
  value.shm = ShmAccess{{"/run/user/1/kvdirect/7.sock", token(6), token(7), 64}, {8192, 4096}, {{1, 0}, {0, 4096}}};
  value.cuda = CudaAccess{value.shm->handoff,
                          token(8),
                          {{CudaAccess::Handle::ipc, {}, 64},
                           {CudaAccess::Handle::descriptor, {}, 4096},
                           {CudaAccess::Handle::fabric, {}, 4096}},
                          {{1, 2, 4000}, {0, 1, 16}, {0, 0, 0}}};
  return value;
}

PullRequest pull_request() {
  PullRequest value;
  value.pull = 3;
  value.lease = {17, 0xabcdef};
  value.watermark = 640;
  value.timeout_ms = 1000;
  value.total_runs = 3;
  value.first_run = 1;
  value.runs = {{0, 4096, 512}, {1, 0, ~std::uint64_t{0}}};
  return value;
}

Descriptor descriptor() {
  Descriptor value;
  value.incarnation = 99;
  value.name = "prefill-0";
  value.admission = {Bytes(2, std::byte{2}), 5, Bytes(32, std::byte{1})};
  value.host = "10.1.2.3";
  value.port = 4711;
  value.region_bytes = {4096};
  Component component;
  component.name = "k";
  component.dtype = "float32";
  component.item_bytes = 4;
  component.axes = {{"block", 8, 512, {}}, {"token", 16, 32, {}}, {"element", 8, 4, {}}};
  value.map.components = {component};
  return value;
}

// Every truncation is refused, and no single flipped byte makes decode do anything but return or throw Error(codec).
template <typename Message>
void hold_against_damage(const Bytes& good) {
  const auto decode = [](BytesView bytes) {
    try {
      static_cast<void>(Message::decode(bytes));
      return true;
    } catch (const Error& error) {
      CHECK(error.code() == Errc::codec || error.code() == Errc::mismatch || error.code() == Errc::plan);
      return false;
    }
  };
  CHECK(decode(good));
  for (std::size_t length = 0; length < good.size(); ++length) {
    // A copy of exactly that size, so that a sanitizer sees a read past it.
    const Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length));
    CHECK(!decode(cut));
  }
  Bytes longer = good;
  longer.push_back(std::byte{0});
  CHECK(!decode(longer));
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const unsigned mask : {0x01U, 0x80U, 0xffU}) {
      Bytes flipped = good;
      flipped[i] ^= static_cast<std::byte>(mask);
      static_cast<void>(decode(flipped));
    }
  }
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    Bytes noise(random() % 200);
    for (std::byte& byte : noise) byte = static_cast<std::byte>(random());
    static_cast<void>(decode(noise));
  }
}

}  // namespace

TEST(protocol_messages_survive_damage) {
  hold_against_damage<DataHeader>(DataHeader{2, 3}.encode());
  hold_against_damage<Hello>(hello().encode());
  hold_against_damage<Challenge>(Challenge{nonce(1)}.encode());
  hold_against_damage<Answer>(Answer{nonce(1)}.encode());
  hold_against_damage<Welcome>(welcome().encode());
  hold_against_damage<Refuse>(Refuse{Errc::mismatch, "segment_bytes differs"}.encode());
  hold_against_damage<Proof>(Proof{1, token(1)}.encode());
  hold_against_damage<PullRequest>(pull_request().encode());
  hold_against_damage<Verdict>(Verdict{1, PullOutcome::lease_expired, "gone"}.encode());
  hold_against_damage<Cancel>(Cancel{1}.encode());
  hold_against_damage<Renew>(Renew{{1, 2}, 60}.encode());
  hold_against_damage<Complete>(Complete{{1, 2}, 1}.encode());
  hold_against_damage<Note>(Note{Bytes(3, std::byte{7})}.encode());
}

// What engines of this protocol version send each other. A change here is another version.
TEST(protocol_bytes_stay_those_of_this_version) {
  CHECK(protocol_version == 5);
  const auto check = [](const Bytes& bytes, std::string_view expected) {
    std::string text;
    for (const std::byte byte : bytes) {
      constexpr std::string_view digits = "0123456789abcdef";
      text += digits[std::to_integer<unsigned>(byte) >> 4];
      text += digits[std::to_integer<unsigned>(byte) & 15];
    }
    CHECK(text == expected);
  };
  check(DataHeader{2, 3}.encode(), "02000000000000000300000000000000");
  check(hello().encode(),
        "050000000700000000000000080000000000000008006465636f64652d300300000003030302090a0b0c0d0e0f1011121314"
        "1516171840420f00000000000a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829");
  check(Challenge{nonce(1)}.encode(), "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20");
  check(Answer{nonce(1)}.encode(), "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20");
  check(welcome().encode(),
        "030405060708090a0b0c0d0e0f10111204012a00000000000000001000000000000000200000000000000000010000300000"
        "000000000405060708090a0b0c0d0e0f10111213020000000040000000000000005000000000000001280000000505050505"
        "0505050505050505050505050505050505050505050505050505050505050505050505001000000000000009000000060606"
        "0606060606064000000000200000000000000900000007070707070707070705060708090a0b0c0d0e0f1011121314010000"
        "00003000000000000009000000080808080808080808011b002f72756e2f757365722f312f6b766469726563742f372e736f"
        "636b060708090a0b0c0d0e0f1011121314150708090a0b0c0d0e0f1011121314151640000000020000000020000000000000"
        "001000000000000002000000010000000000000000000000000000000010000000000000011b002f72756e2f757365722f31"
        "2f6b766469726563742f372e736f636b060708090a0b0c0d0e0f1011121314150708090a0b0c0d0e0f101112131415164000"
        "000008090a0b0c0d0e0f10111213141516170300000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000040000000000000000100000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000100000000000000200000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000010000000000000030000000100000002"
        "000000a00f0000000000000000000001000000100000000000000000000000000000000000000000000000");
  check(Welcome{token(1), 1, std::nullopt}.encode(), "0102030405060708090a0b0c0d0e0f100100000000");
  check(Refuse{Errc::mismatch, "segment_bytes differs"}.encode(), "0415007365676d656e745f62797465732064696666657273");
  check(Proof{1, token(1)}.encode(), "01000000000000000102030405060708090a0b0c0d0e0f10");
  check(pull_request().encode(),
        "030000000000000011000000efcdab00000000008002000000000000e8030000030000000100000002000000000000000010"
        "0000000000000002000000000000010000000000000000000000ffffffffffffffff");
  check(Verdict{1, PullOutcome::lease_expired, "gone"}.encode(), "0100000000000000010400676f6e65");
  check(Cancel{1}.encode(), "0100000000000000");
  check(Renew{{1, 2}, 60}.encode(), "0100000002000000000000000000000000004e40");
  check(Complete{{1, 2}, 1}.encode(), "01000000020000000000000001000000");
  check(Note{Bytes(3, std::byte{7})}.encode(), "03000000070707");
  check(descriptor().encode(),
        "4b56444952454354050000006300000000000000090070726566696c6c2d3002000000020205000000000000002000000001"
        "01010101010101010101010101010101010101010101010101010101010101080031302e312e322e33671201000000001000"
        "000000000089000000010100000001006b0700666c6f61743332040000000100000001000000000000000000000000000000"
        "000000000000000000030000000500626c6f636b08000000000000000002000000000000000000000500746f6b656e100000"
        "00000000002000000000000000000000000700656c656d656e74080000000000000004000000000000000000000096118534"
        "11141379");
}

TEST(protocol_messages_come_back_as_they_went) {
  const Hello greeting = Hello::decode(hello().encode());
  CHECK(greeting.reader_name == "decode-0" && greeting.identity == hello().identity);
  CHECK(greeting.not_after == 1'000'000 && greeting.nonce == nonce(10));
  CHECK(greeting.owner_incarnation == 7 && greeting.reader_incarnation == 8);
  const Welcome answer = Welcome::decode(welcome().encode());
  CHECK(greeting.stream == 2 && greeting.session == token(9));
  CHECK(answer.nonce == token(3) && answer.streams == 4);
  CHECK(answer.host.has_value() && answer.host->pid == 42 && answer.host->regions == welcome().host->regions);
  CHECK(answer.rdma.has_value() && answer.rdma->regions.size() == 1 && answer.rdma->regions[0].address == 0x3000);
  CHECK(answer.shm.has_value() && answer.shm->handoff.path == welcome().shm->handoff.path &&
        answer.shm->handoff.secret == token(6));
  CHECK(answer.cuda.has_value() && answer.cuda->device == token(8) && answer.cuda->allocations.size() == 3);
  CHECK(answer.cuda->regions[0].count == 2 && answer.cuda->regions[0].offset == 4000);
  CHECK(answer.shm->memories == welcome().shm->memories && answer.shm->regions[1].offset == 4096);
  const Welcome bare = Welcome::decode(Welcome{token(1), 1, std::nullopt}.encode());
  CHECK(!bare.host && !bare.rdma && !bare.shm && !bare.cuda);
  const PullRequest request = PullRequest::decode(pull_request().encode());
  CHECK(request.lease == LeaseRef{17, 0xabcdef} && request.watermark == 640);
  CHECK(request.runs.size() == 2 && request.runs[1].length == ~std::uint64_t{0} && request.first_run == 1);
  CHECK(Refuse::decode(Refuse{Errc::mismatch, "x"}.encode()).code == Errc::mismatch);
  CHECK(Renew::decode(Renew{{1, 2}, 60}.encode()).term == 60);
}

TEST(protocol_refuses_values_that_mean_nothing) {
  CHECK(PullRequest::decode(pull_request().encode()).encode().size() == PullRequest::fixed_bytes + 2 * WireRun::bytes);
  PullRequest past = pull_request();
  past.first_run = 2;
  CHECK_THROWS_WITH(PullRequest::decode(past.encode()), Errc::codec, "announced total");
  PullRequest vast = pull_request();
  vast.total_runs = limits::runs_per_pull + 1;
  CHECK_THROWS_WITH(PullRequest::decode(vast.encode()), Errc::codec, "limit");
  CHECK_THROWS_WITH(Complete::decode(Complete{{1, 2}, 0}.encode()), Errc::codec, "readers");
  CHECK_THROWS_WITH(Renew::decode(Renew{{1, 2}, -1}.encode()), Errc::codec, "term");
  CHECK_THROWS_WITH(Renew::decode(Renew{{1, 2}, std::nan("")}.encode()), Errc::codec, "term");
  for (const double longer : {2e6, 1e300, std::numeric_limits<double>::infinity()}) {
    CHECK(Renew::decode(Renew{{1, 2}, longer}.encode()).term == limits::renew_term);
  }
  Hello longest = hello();
  longest.reader_name.resize(limits::name, 'x');
  longest.identity.resize(limits::identity);
  CHECK(Hello::decode(longest.encode()).identity == longest.identity);
  CHECK(longest.encode().size() <= limits::hello);
  for (const std::size_t more : {limits::identity + 1, limits::admission + 1}) {
    Hello longer = hello();
    longer.identity.resize(more);
    CHECK_THROWS_WITH(Hello::decode(longer.encode()), Errc::codec, "identity");
  }
  Hello far_stream = hello();
  far_stream.stream = limits::streams;
  CHECK_THROWS_WITH(Hello::decode(far_stream.encode()), Errc::codec, "stream");
  for (const unsigned streams : {0U, limits::streams + 1}) {
    Welcome wide = welcome();
    wide.streams = streams;
    CHECK_THROWS_WITH(Welcome::decode(wide.encode()), Errc::codec, "streams");
  }
  Welcome outside = welcome();
  outside.shm->regions[1].offset = 8192;
  CHECK_THROWS_WITH(Welcome::decode(outside.encode()), Errc::codec, "outside the shared memories");
  outside.shm->regions[1] = {2, 0};
  CHECK_THROWS_WITH(Welcome::decode(outside.encode()), Errc::codec, "outside the shared memories");
}

TEST(protocol_refuses_places_on_a_gpu_that_cannot_be) {
  using Place = CudaAccess::Place;
  const auto refused = [](Place place, const std::string& why) {
    Welcome value = welcome();
    value.cuda->regions[0] = place;
    CHECK_THROWS_WITH(Welcome::decode(value.encode()), Errc::codec, why);
  };
  refused(Place{3, 1, 0}, "outside the allocations");
  refused(Place{1, 3, 0}, "outside the allocations");
  refused(Place{2, 0xffffffff, 0}, "outside the allocations");
  refused(Place{1, 1, 4096}, "outside the allocations");
  refused(Place{0, 2, 0}, "cannot be joined");
  Welcome value = welcome();
  value.cuda->allocations[1].bytes = std::uint64_t{1} << 63;
  CHECK_THROWS_WITH(Welcome::decode(value.encode()), Errc::codec, "out of range");
  value.cuda->allocations.clear();
  CHECK_THROWS_WITH(Welcome::decode(value.encode()), Errc::codec, "allocations are missing");
}

TEST(hello_of_another_version_can_be_told_so) {
  Hello other = hello();
  other.version = protocol_version - 1;
  other.identity.resize(limits::admission);  // where those below 4 have their secret
  Bytes bytes = other.encode();
  bytes.resize(bytes.size() - 40 - 17);  // before there were nonces, and before there were streams
  CHECK(Hello::decode(bytes).version == protocol_version - 1);
  CHECK(Hello::decode(bytes).identity == other.identity);
}

TEST(protocol_secrets_compare_whole) {
  Token other = token(1);
  CHECK(same_secret(token(1), other));
  other.back() ^= std::byte{1};
  CHECK(!same_secret(token(1), other));
  CHECK(!same_secret(token(1), BytesView(other).first(8)));
  CHECK(random_token() != random_token());
}

TEST(descriptor_survives_damage) {
  const Bytes good = descriptor().encode();
  hold_against_damage<Descriptor>(good);
  CHECK(Descriptor::decode(good).map == descriptor().map);
  // Any changed byte past the version is noticed.
  for (std::size_t i = 12; i < good.size(); ++i) {
    Bytes flipped = good;
    flipped[i] ^= std::byte{4};
    CHECK_THROWS(Descriptor::decode(flipped), Errc::codec);
  }
}

TEST(descriptor_of_another_version_is_a_mismatch) {
  Bytes other = descriptor().encode();
  other[8] = std::byte{77};
  CHECK_THROWS_WITH(Descriptor::decode(other), Errc::mismatch, "protocol version differs: the owner speaks 77");
}

TEST(landing_takes_only_the_next_bytes) {
  Bytes memory(64, std::byte{0});
  PullJob job;
  job.runs = {{0, 8, 4, 0, 0}, {100, 32, 4, 0, 0}};
  job.local = std::make_shared<const Published>(Published{{{memory.data(), memory.size(), MemoryKind::host}}, {}});
  const auto pull = std::make_shared<Pull>(std::move(job), std::make_shared<Counters>());
  ReceiveCursor cursor(Stripe::cut(pull, 1).front());
  std::array<iovec, 2> parts{};
  CHECK(cursor.expects(0, 8) && !cursor.expects(0, 9) && !cursor.expects(1, 4));
  CHECK(cursor.place(6, parts) == 2);
  CHECK(parts[0].iov_base == &memory[8] && parts[0].iov_len == 4);
  CHECK(parts[1].iov_base == &memory[32] && parts[1].iov_len == 2);
  CHECK(cursor.place(6, std::span(parts).first(1)) == 1);  // as far as the parts reach
  cursor.advance(5);
  CHECK(!cursor.complete() && !cursor.expects(0, 1) && cursor.expects(5, 3) && !cursor.expects(5, 4));
  CHECK(cursor.place(3, parts) == 1 && parts[0].iov_base == &memory[33] && parts[0].iov_len == 3);
  cursor.advance(3);
  CHECK(cursor.complete() && !cursor.expects(8, 1));
}

TEST(lease_extents_cover_leased_blocks_only) {
  const Published published{{{nullptr, 4096, MemoryKind::host}}, descriptor().map};
  const auto leases = std::make_shared<LeaseTable>(16U);
  LeaseExtents extents(leases);
  const LeaseRef lease = leases->reserve().value();
  const auto covers = [&](std::uint32_t region, std::uint64_t offset, std::uint64_t length) {
    const WireRun run{region, offset, length};
    return extents.covers(published, lease, std::span(&run, 1));
  };
  CHECK(!covers(0, 1024, 512));  // not granted yet
  leases->grant(lease, {{2, 3}});
  CHECK(covers(0, 1024, 512) && covers(0, 1024, 1024) && covers(0, 2047, 1));
  CHECK(!covers(0, 1023, 2) && !covers(0, 1024, 1025) && !covers(0, 2048, 1) && !covers(1, 1024, 512));
  CHECK(!covers(0, 0, 512) && !covers(0, 1024, 0) && !covers(0, 1024, ~std::uint64_t{0}));
  CHECK(!covers(0, ~std::uint64_t{0}, 2));
  const auto cover_all = [&](const std::vector<WireRun>& runs) { return extents.covers(published, lease, runs); };
  CHECK(cover_all({{0, 1024, 8}, {0, 1032, 8}, {0, 1024, 8}, {0, 2040, 8}}));  // in any order
  CHECK(!cover_all({{0, 1024, 8}, {0, 2048, 8}}) && !cover_all({{0, 0, 8}, {0, 1024, 8}}));
  leases->grant(lease, {{5}});
  CHECK(cover_all({{0, 1024, 8}, {0, 2560, 8}, {0, 1032, 8}}) && !cover_all({{0, 2560, 8}, {0, 2048, 8}}));
  CHECK(covers(0, 2560, 512));  // blocks added later count
  leases->revoke(lease);
  extents.sweep();
  CHECK(!covers(0, 1024, 512));
}

}  // namespace kvdirect
