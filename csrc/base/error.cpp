// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "base/error.h"

#include <cerrno>
#include <cstring>
#include <utility>

namespace kvdirect {

const char* name(Errc code) noexcept {
  switch (code) {
    case Errc::config: return "config";
    case Errc::plan: return "plan";
    case Errc::codec: return "codec";
    case Errc::connect: return "connect";
    case Errc::mismatch: return "mismatch";
    case Errc::lane: return "lane";
    case Errc::lease_expired: return "lease_expired";
    case Errc::timeout: return "timeout";
    case Errc::cancelled: return "cancelled";
    case Errc::peer_lost: return "peer_lost";
    case Errc::corrupt: return "corrupt";
    case Errc::transport: return "transport";
    case Errc::closed: return "closed";
    case Errc::wait_timeout: return "wait_timeout";
    case Errc::invalid_state: return "invalid_state";
  }
  return "unknown";
}

namespace {

std::string sentence(const std::string& message, const ErrorContext& context) {
  std::string text;
  if (!context.operation.empty()) text += context.operation + ": ";
  text += message;
  if (!context.peer.empty()) text += " [peer " + context.peer + "]";
  if (!context.status.empty()) text += " [status: " + context.status + "]";
  if (!context.hint.empty()) text += ". " + context.hint;
  return text;
}

}  // namespace

Error::Error(Errc code, const std::string& message, ErrorContext context)
    : std::runtime_error(sentence(message, context)), _code(code), _context(std::move(context)) {}

Error lane_error(std::string_view lane, const std::string& why, ErrorContext context) {
  return {Errc::lane, std::string(lane) + " does not work: " + why, std::move(context)};
}

Error kernel_refused(const char* operation) {
  return {Errc::transport, "the kernel refused", {.operation = operation, .status = strerror(errno)}};
}

}  // namespace kvdirect
