// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "call.h"

namespace kvdirect::sim {

// Objects of one sort by their handles. A handle is never given twice, so that one that was freed stays wrong.
template <typename Object, typename Handle>
class Registry {
 public:
  // `first`: tells the handles of this sort from those of all others.
  Registry(const char* noun, std::uintptr_t first) : _noun(noun), _next(first) {}

  Handle add(std::shared_ptr<Object> object) {
    const std::lock_guard lock(_mutex);
    const auto handle = reinterpret_cast<Handle>(_next);
    _next += 16;
    _objects.emplace(handle, std::move(object));
    return handle;
  }

  [[nodiscard]] std::shared_ptr<Object> find(Handle handle) const {
    const std::lock_guard lock(_mutex);
    const auto found = _objects.find(handle);
    if (found == _objects.end()) refuse_handle(handle);
    return found->second;
  }

  std::shared_ptr<Object> take(Handle handle) {
    const std::lock_guard lock(_mutex);
    const auto found = _objects.find(handle);
    if (found == _objects.end()) refuse_handle(handle);
    auto object = std::move(found->second);
    _objects.erase(found);
    return object;
  }

  // Those of a context that ends.
  std::vector<std::shared_ptr<Object>> take_all(const Context& context) {
    const std::lock_guard lock(_mutex);
    std::vector<std::shared_ptr<Object>> taken;
    for (const auto& [handle, object] : _objects) {
      if (&object->context() == &context) taken.push_back(object);
    }
    std::erase_if(_objects, [&](const auto& entry) { return &entry.second->context() == &context; });
    return taken;
  }

  [[nodiscard]] std::size_t count() const {
    const std::lock_guard lock(_mutex);
    return _objects.size();
  }

 private:
  [[noreturn]] void refuse_handle(Handle handle) const {
    refuse(CUDA_ERROR_INVALID_HANDLE,
           hex(reinterpret_cast<std::uintptr_t>(handle)) + " is no " + _noun + ", or was destroyed");
  }

  mutable std::mutex _mutex;
  const char* _noun;
  std::uintptr_t _next;
  std::unordered_map<Handle, std::shared_ptr<Object>> _objects;
};

}  // namespace kvdirect::sim
