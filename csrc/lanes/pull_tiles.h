// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/non_copyable.h"
#include "cuda/tile_list.h"
#include "pull.h"

namespace kvdirect {

// A pull's groups as tiles. Each part is planned when the one before it is launched, and twice as large: planning hides
// behind copying, which takes longer, and little waits for the first launch.
class PullTiles : NonCopyable {
 public:
  PullTiles(Pull& pull, std::shared_ptr<BoxCache> boxes) : _pull(pull), _boxes(std::move(boxes)) {}
  ~PullTiles() { give_back(); }

  [[nodiscard]] bool empty() const noexcept { return (!_tiles || _tiles->empty()) && !_pull.has_groups(); }
  // Those to be handed out next; null: there are none. Throws Error(plan).
  [[nodiscard]] TileList* current() {
    while ((!_tiles || _tiles->empty()) && _pull.has_groups()) {
      give_back();
      _groups = _pull.take_groups(_blocks);
      _blocks = std::min(_blocks * 2, most_blocks);
      _tiles.emplace(_groups, *_boxes);
    }
    return _tiles && !_tiles->empty() ? &*_tiles : nullptr;
  }

 private:
  // Enough for a launch not to count; planned in less time than copied.
  static constexpr std::size_t most_blocks = 32768;

  void give_back() {
    _tiles.reset();
    _pull.give_back(std::exchange(_groups, {}));
  }

  Pull& _pull;
  std::shared_ptr<BoxCache> _boxes;
  std::size_t _blocks = GroupCursor::first_part * 2;  // the first part is planned already
  std::vector<RunGroup> _groups;
  std::optional<TileList> _tiles;
};

}  // namespace kvdirect
