// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "id_tables.h"

#include <cstdint>
#include <string_view>

namespace nb = nanobind;

namespace kvdirect {

namespace {

bool holds_int64(const Py_buffer& buffer) {
  const std::string_view format = buffer.format == nullptr ? "" : buffer.format;
  return buffer.ndim == 1 && buffer.itemsize == sizeof(std::int64_t) && (format == "l" || format == "q");
}

}  // namespace

IdTables::IdTables(nb::handle tables, const char* name, const char* operation, nb::handle convert) {
  if (read(tables)) return;
  _views.clear();
  _left_out.clear();
  _converted = convert(tables, name, operation);
  if (!read(_converted)) throw nb::type_error("block tables must be converted to C-contiguous int64 arrays");
}

bool IdTables::read(nb::handle tables) {
  if (!nb::isinstance<nb::list>(tables) && !nb::isinstance<nb::tuple>(tables)) return false;
  const std::size_t count = nb::len(tables);
  _buffers = std::make_unique<Buffer[]>(count);
  _views.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const nb::object table = tables[i];
    if (table.is_none()) {
      _left_out.resize(count);
      _left_out[i] = true;
      _views.emplace_back();
      continue;
    }
    if (PyObject_CheckBuffer(table.ptr()) == 0) return false;
    Buffer& buffer = _buffers[i];
    if (PyObject_GetBuffer(table.ptr(), &buffer, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) != 0) {
      PyErr_Clear();
      return false;
    }
    if (!holds_int64(buffer)) return false;
    _views.emplace_back(static_cast<const std::int64_t*>(buffer.buf), static_cast<std::size_t>(buffer.shape[0]));
  }
  return true;
}

}  // namespace kvdirect
