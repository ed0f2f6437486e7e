// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
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

  [[nodiscard]] std::vector<BlockTable> views() const;
  // By number, whether a table is left out; empty where none is.
  [[nodiscard]] const std::vector<bool>& left_out() const noexcept { return _left_out; }

 private:
  // False if one of them is not such a buffer.
  bool read(nanobind::handle tables);

  struct Release {
    void operator()(Py_buffer* buffer) const noexcept {
      PyBuffer_Release(buffer);
      delete buffer;
    }
  };
  nanobind::object _converted;
  std::vector<std::unique_ptr<Py_buffer, Release>> _buffers;  // null: a table that is left out
  std::vector<bool> _left_out;
};

}  // namespace kvdirect
