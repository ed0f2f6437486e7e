// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>
#include <utility>
#include <vector>

namespace kvdirect {

// Compares, hashes and shows a class by these of its attributes, as a frozen dataclass does: what it shows evaluates.
struct ByValue : nanobind::def_visitor<ByValue> {
  explicit ByValue(std::vector<const char*> attributes) : names(std::move(attributes)) {}

  template <class Class>
  void execute(Class& type) const {
    using Self = nanobind::handle_t<typename Class::Type>;
    type.def(
            "__eq__", [by = *this](Self self, Self other) { return by.values(self).equal(by.values(other)); },
            nanobind::is_operator())
        .def("__hash__", [by = *this](Self self) { return nanobind::hash(by.values(self)); })
        .def("__repr__", [by = *this](Self self) { return by.text(self); });
  }

  [[nodiscard]] nanobind::tuple values(nanobind::handle self) const {
    nanobind::list values;
    for (const char* name : names) values.append(self.attr(name));
    return nanobind::tuple(values);
  }
  [[nodiscard]] std::string text(nanobind::handle self) const {
    std::string text;
    for (const char* name : names) {
      text += (text.empty() ? "" : ", ") + std::string(name) + "=" + nanobind::repr(self.attr(name)).c_str();
    }
    return nanobind::cast<std::string>(self.type().attr("__name__")) + "(" + text + ")";
  }

  std::vector<const char*> names;
};

}  // namespace kvdirect
