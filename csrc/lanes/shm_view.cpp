// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "lanes/shm_view.h"

#include <string>
#include <utility>

#include "base/error.h"

namespace kvdirect {

ShmView::ShmView(const ShmAccess& access, std::vector<Fd> descriptors, const std::vector<std::uint64_t>& region_bytes) {
  const auto refuse = [](const std::string& why) { return Error(Errc::lane, why); };
  if (access.regions.size() != region_bytes.size()) throw refuse("the owner's welcome and descriptor disagree");
  for (std::size_t i = 0; i < access.memories.size(); ++i) {
    _memories.push_back(std::make_unique<MappedMemory>(std::move(descriptors.at(i)), access.memories[i]));
  }
  for (std::size_t i = 0; i < region_bytes.size(); ++i) {
    const ShmAccess::Place& place = access.regions[i];
    const auto bytes = _memories.at(place.memory)->bytes();
    if (place.offset > bytes.size() || region_bytes[i] > bytes.size() - place.offset) {
      throw refuse("the owner's region " + std::to_string(i) + " ends outside its memory");
    }
    _regions.push_back(bytes.data() + place.offset);
  }
}

}  // namespace kvdirect
