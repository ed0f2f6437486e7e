// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <exception>

#include "base/error.h"
#include "bindings.h"

namespace nb = nanobind;

namespace kvdirect {

namespace {

void raise(const Error& error) {
  const ErrorContext& context = error.context();
  const nb::object made = nb::module_::import_("kvtransfer.errors")
                              .attr("from_native")(name(error.code()), error.what(), context.operation, context.peer,
                                                   context.status, context.hint);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
}

void translate(const std::exception_ptr& pointer, void* /*unused*/) {
  try {
    std::rethrow_exception(pointer);
  } catch (const Error& error) {
    try {
      raise(error);
    } catch (nb::python_error& failure) {
      failure.restore();
    }
  }
}

}  // namespace

void bind_errors(nb::module_& /*module*/) { nb::register_exception_translator(&translate); }

}  // namespace kvdirect
