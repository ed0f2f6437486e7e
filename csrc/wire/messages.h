// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/error.h"
#include "base/mac.h"
#include "lease.h"
#include "planner/tensor_map.h"

// Every message two engines exchange. Each struct encodes itself and decodes bytes it does not trust: decode throws
// Error(codec), never reads past the end and never allocates more than the input warrants.
namespace kvdirect {

inline constexpr std::uint32_t protocol_version = 5;

using Bytes = std::vector<std::byte>;
using BytesView = std::span<const std::byte>;

namespace limits {
inline constexpr std::size_t name = 256;
inline constexpr std::size_t host = 64;
inline constexpr std::size_t admission = 256;
inline constexpr std::size_t identity = 64;  // of a reader that was given a pass
inline constexpr std::size_t regions = 4096;
inline constexpr unsigned streams = 8;  // connections of one session
inline constexpr std::size_t worker_address = 4096;
inline constexpr std::size_t memory_key = 1024;
inline constexpr std::size_t unix_path = 107;        // sockaddr_un, without the zero at the end
inline constexpr std::size_t shared_memories = 250;  // the kernel passes at most 253 descriptors at once
inline constexpr std::size_t cuda_allocations = 4096;
inline constexpr std::size_t reason = 512;
inline constexpr std::size_t map_bytes = std::size_t{1} << 24;
inline constexpr std::size_t runs_per_message = 4096;
inline constexpr std::size_t runs_per_pull = std::size_t{1} << 20;
// What a reader asks for at once over one connection. Most of it may wait for watermarks, which holds nobody up; an
// owner queues twice as much, since it may hear of an end later than the reader.
inline constexpr std::size_t pulls_at_once = 8192;
inline constexpr std::uint64_t runs_at_once = 4 * runs_per_pull;
inline constexpr std::size_t note = 1024;
// That an owner keeps until its program asks for them: of one session, and of all.
inline constexpr std::size_t notes_per_session = 256;
inline constexpr std::size_t notes = 4096;
inline constexpr double renew_term = 1e6;  // seconds; a longer one counts as this
inline constexpr std::uint64_t min_segment = 16 * 1024;
inline constexpr std::uint64_t max_segment = 4 * 1024 * 1024;
// The longest message that is no data, a pull request, and the longest from somebody not yet admitted.
inline constexpr std::size_t message = std::size_t{128} << 10;
inline constexpr std::size_t hello = 1024;
// The longest from an owner: a welcome.
inline constexpr std::size_t welcome = std::size_t{8} << 20;
}  // namespace limits

enum class MessageId : unsigned {
  hello,      // reader -> owner, first
  welcome,    // owner -> reader
  refuse,     // owner -> reader
  probe,      // reader -> owner
  proof,      // owner -> reader
  pull,       // reader -> owner
  data,       // owner -> reader
  verdict,    // owner -> reader
  cancel,     // reader -> owner
  renew,      // reader -> owner
  complete,   // reader -> owner
  bye,        // both ways
  challenge,  // owner -> reader, to a hello
  answer,     // reader -> owner, to that
  prove,      // reader -> owner
  digest,     // owner -> reader
  note,       // reader -> owner
};
inline constexpr auto last_message_id = MessageId::note;

using Token = std::array<std::byte, 16>;
using Nonce = std::array<std::byte, 32>;  // of one connection, from each side

[[nodiscard]] Token random_token();
[[nodiscard]] Nonce random_nonce();
// Takes the same time wherever the two differ.
[[nodiscard]] bool same_secret(BytesView a, BytesView b) noexcept;

// How the body of a data message begins: where the payload behind it belongs in the pull's byte stream.
struct DataHeader {
  std::uint64_t pull = 0;
  std::uint64_t offset = 0;

  static constexpr std::size_t bytes = 16;
  [[nodiscard]] Bytes encode() const;
  static DataHeader decode(BytesView bytes);
};

struct Hello {
  std::uint32_t version = protocol_version;
  std::uint64_t owner_incarnation = 0;  // whom the reader means to reach
  std::uint64_t reader_incarnation = 0;
  std::string reader_name;
  // Whose pass the reader has; empty: it has the owner's own secret. (Versions below 4 have their secret here.)
  Bytes identity;
  // Which of a session's connections this is. All but the first name the session by the nonce of its welcome.
  unsigned stream = 0;
  Token session{};
  std::uint64_t not_after = 0;  // the pass's
  Nonce nonce{};

  [[nodiscard]] Bytes encode() const;
  // Of another version only the fields up to `identity`, which all versions have.
  static Hello decode(BytesView bytes);
};

struct Challenge {
  Nonce nonce{};

  [[nodiscard]] Bytes encode() const;
  static Challenge decode(BytesView bytes);
};

struct Answer {
  Mac proof{};

  [[nodiscard]] Bytes encode() const;
  static Answer decode(BytesView bytes);
};

// Where a reader on the same host, allowed to read this process, finds things in it.
struct HostAccess {
  std::uint64_t pid = 0;
  std::uint64_t incarnation_address = 0;  // eight bytes: the owner's incarnation
  std::uint64_t words_address = 0;        // LeaseWord[words]
  std::uint32_t words = 0;
  std::uint64_t nonce_address = 0;
  Token nonce{};
  std::vector<std::uint64_t> regions;  // addresses
};

// Where a reader with an RDMA device finds things in the owner's memory, and the keys to read them.
struct RemoteMemory {
  std::uint64_t address = 0;
  Bytes key;
};

struct RdmaAccess {
  Bytes worker_address;
  RemoteMemory words;  // LeaseWord[word_count]
  std::uint32_t word_count = 0;
  RemoteMemory nonce_memory;
  Token nonce{};
  std::vector<RemoteMemory> regions;  // without a key: no network card reads that one
};

// Where a reader on the same host is given the owner's control page, and what else lanes hand over as descriptors.
struct HandoffAccess {
  std::string path;  // of a unix socket
  Token secret{};    // good once
  Token nonce{};     // what the control page shows
  std::uint32_t words = 0;
};

// Where a reader on the same host is given the owner's shared memory.
struct ShmAccess {
  struct Place {
    std::uint32_t memory = 0;  // which of `memories`
    std::uint64_t offset = 0;
  };
  HandoffAccess handoff;
  std::vector<std::uint64_t> memories;  // bytes of each; the control page comes before them
  std::vector<Place> regions;
};

// How a reader on the same host maps the owner's memory on a GPU. Lease words are on the control page, in host memory.
struct CudaAccess {
  enum class Handle : std::uint8_t {
    ipc,         // a CUipcMemHandle
    descriptor,  // handed over at the handoff socket, in order
    fabric,      // a CUmemFabricHandle
  };
  struct Allocation {
    Handle kind = Handle::ipc;
    std::array<std::byte, 64> handle{};  // zeroes for a descriptor
    std::uint64_t bytes = 0;
  };
  // A region begins at `offset` of allocation `first` and ends in the last of `count`, which follow each other without
  // a gap. 0 of them: it is not on a GPU.
  struct Place {
    std::uint32_t first = 0;
    std::uint32_t count = 0;
    std::uint64_t offset = 0;
  };
  HandoffAccess handoff;
  Token device{};                       // the GPU's UUID
  std::vector<Allocation> allocations;  // the first begins with the handoff's nonce
  std::vector<Place> regions;
};

// The owner's proof stands behind it: see wire/admission.h.
struct Welcome {
  Token nonce{};         // what a proof over the message lane must carry
  unsigned streams = 1;  // how many connections the owner takes for one session
  std::optional<HostAccess> host;
  std::optional<RdmaAccess> rdma;
  std::optional<ShmAccess> shm;
  std::optional<CudaAccess> cuda;

  [[nodiscard]] Bytes encode() const;
  static Welcome decode(BytesView bytes);
};

struct Refuse {
  Errc code = Errc::connect;
  std::string reason;

  [[nodiscard]] Bytes encode() const;
  static Refuse decode(BytesView bytes);
};

struct Proof {
  std::uint64_t incarnation = 0;
  Token nonce{};

  [[nodiscard]] Bytes encode() const;
  static Proof decode(BytesView bytes);
};

struct WireRun {
  std::uint32_t region = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;

  static constexpr std::size_t bytes = 20;
};

// One pull is one or several of these, in order.
struct PullRequest {
  std::uint64_t pull = 0;
  LeaseRef lease;
  std::uint64_t watermark = 0;
  std::uint32_t timeout_ms = 0;  // how long the reader will wait; no clocks are compared
  std::uint32_t total_runs = 0;
  std::uint32_t first_run = 0;  // index of runs[0] in the whole pull
  std::vector<WireRun> runs;

  static constexpr std::size_t fixed_bytes = 44;
  [[nodiscard]] Bytes encode() const;
  static PullRequest decode(BytesView bytes);
};

enum class PullOutcome : std::uint8_t { valid, lease_expired, timeout, refused, failed };

// What the owner has of a PullRequest that asks for a digest only.
struct Proven {
  std::uint64_t pull = 0;
  Digest digest{};

  [[nodiscard]] Bytes encode() const;
  static Proven decode(BytesView bytes);
};

struct Verdict {
  std::uint64_t pull = 0;
  PullOutcome outcome = PullOutcome::failed;
  std::string reason;

  [[nodiscard]] Bytes encode() const;
  static Verdict decode(BytesView bytes);
};

struct Cancel {
  std::uint64_t pull = 0;

  [[nodiscard]] Bytes encode() const;
  static Cancel decode(BytesView bytes);
};

struct Renew {
  LeaseRef lease;
  double term = 0;  // seconds

  [[nodiscard]] Bytes encode() const;
  static Renew decode(BytesView bytes);
};

struct Complete {
  LeaseRef lease;
  std::uint32_t readers = 1;

  [[nodiscard]] Bytes encode() const;
  static Complete decode(BytesView bytes);
};

// Something for the owner's program, of which nothing here knows what it means.
struct Note {
  Bytes body;

  [[nodiscard]] Bytes encode() const;
  static Note decode(BytesView bytes);
};

}  // namespace kvdirect
