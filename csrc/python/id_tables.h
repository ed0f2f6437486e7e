// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <utility>
#include <vector>

#include "base/non_copyable.h"
#include "planner/plan.h"

namespace kvdirect {

// Block tables as a caller gave them. C-contiguous int64 buffers in a list or tuple are read where they are, which
// costs a tenth of what NumPy's conversions cost; anything else is as `convert(tables, name, operation)` returns it. A
// table that is None is left out.
// Lives and dies with the GIL held.
class IdTables : NonCopyable {
 public:
  IdTables(nanobind::handle tables, const char* name, const char* operation, nanobind::handle convert);

  // As long as this lives. Once.
  [[nodiscard]] std::vector<BlockTable> take_views() noexcept { return std::move(_views); }
  // By number, whether a table is left out; empty where none is.
  [[nodiscard]] const std::vector<bool>& left_out() const noexcept { return _left_out; }

 private:
  // False if one of them is not such a buffer.
  bool read(nanobind::handle tables);

  // Some buffers point into themselves, and cannot be moved.
  struct Buffer : Py_buffer, NonCopyable {
    Buffer() noexcept : Py_buffer{} {}
    ~Buffer() { PyBuffer_Release(this); }
  };
  nanobind::object _converted;
  std::unique_ptr<Buffer[]> _buffers;  // of each table; empty: it is left out
  std::vector<BlockTable> _views;
  std::vector<bool> _left_out;
};

}  // namespace kvdirect
