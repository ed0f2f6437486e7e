// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>

#include "base/codec.h"
#include "wire/messages.h"

// Fields that several messages have.
namespace kvdirect {

inline Token get_token(Reader& reader, const char* field) {
  Token token{};
  const auto view = reader.raw(token.size(), field);
  std::ranges::copy(view, token.begin());
  return token;
}

inline bool get_flag(Reader& reader, const char* field) {
  const std::uint8_t flag = reader.u8(field);
  if (flag > 1) reader.fail(field, "is neither 0 nor 1");
  return flag == 1;
}

}  // namespace kvdirect
