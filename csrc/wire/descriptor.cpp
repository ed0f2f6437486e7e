// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "wire/descriptor.h"

#include <algorithm>
#include <array>

#include "base/codec.h"

namespace kvdirect {

namespace {
constexpr std::string_view magic = "KVDIRECT";

// FNV-1a: bytes damaged on the way are told from those of another version.
std::uint64_t checksum(BytesView bytes) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const std::byte byte : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3U;
  return hash;
}
}  // namespace

Bytes Descriptor::encode() const {
  Writer writer;
  writer.raw(std::as_bytes(std::span(magic)));
  writer.u32(protocol_version);
  writer.u64(incarnation);
  writer.string(utf8_prefix(name, limits::name));
  writer.sized(admission.identity);
  writer.u64(admission.not_after);
  writer.sized(admission.key);
  writer.string(host);
  writer.u16(port);
  writer.u32(static_cast<std::uint32_t>(region_bytes.size()));
  for (const std::uint64_t length : region_bytes) writer.u64(length);
  writer.sized(map.encode());
  writer.u64(checksum(writer.bytes()));
  return writer.take();
}

Descriptor Descriptor::decode(BytesView bytes) {
  Reader reader(bytes, "descriptor");
  const auto start = reader.raw(magic.size(), "magic");
  if (!std::ranges::equal(start, std::as_bytes(std::span(magic)))) {
    reader.fail("magic", "is not that of an engine's descriptor");
  }
  const std::uint32_t version = reader.u32("protocol version");
  if (version != protocol_version) {
    throw Error(Errc::mismatch,
                "protocol version differs: the owner speaks " + std::to_string(version) + ", this engine " +
                    std::to_string(protocol_version),
                {.operation = "connect", .hint = "install the same kvtransfer on both sides"});
  }
  Descriptor descriptor;
  descriptor.incarnation = reader.u64("incarnation");
  descriptor.name = reader.string("name", limits::name);
  descriptor.admission.identity = reader.sized("identity", limits::identity);
  descriptor.admission.not_after = reader.u64("not after");
  descriptor.admission.key = reader.sized("admission", limits::admission);
  descriptor.host = reader.string("host", limits::host);
  descriptor.port = reader.u16("port");
  descriptor.region_bytes.resize(reader.count("regions", limits::regions, 8));
  for (std::uint64_t& length : descriptor.region_bytes) length = reader.u64("region bytes");
  const auto map = reader.raw(reader.count("tensor map", limits::map_bytes, 1), "tensor map");
  const std::size_t covered = bytes.size() - reader.remaining();
  if (reader.u64("checksum") != checksum(bytes.first(covered))) reader.fail("checksum", "does not match");
  reader.finish();
  descriptor.map = TensorMap::decode(map);
  descriptor.map.validate(descriptor.region_bytes);
  return descriptor;
}

}  // namespace kvdirect
