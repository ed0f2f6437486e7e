// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>
#include <utility>

namespace kvdirect {

// What happened in one engine since it was made. Any thread counts, any thread reads.
struct Counters {
  using Value = std::atomic<std::uint64_t>;
  // Owner side.
  Value sessions{0};          // readers admitted
  Value sessions_ended{0};    // of them gone
  Value bad_admission{0};     // hellos without the secret
  Value refused_sessions{0};  // and connections of them, for which there was no room
  Value bad_token{0};         // messages of no session, or with a wrong token
  Value bad_message{0};       // messages that do not decode, or that nobody may send
  Value refused_runs{0};      // pulls that asked for bytes outside their lease
  Value refused_pulls{0};     // pulls refused for any other reason
  Value stale_epoch{0};       // pulls, renewals and completes for a lease that is no more
  Value pulls_served{0};      // message lane, valid at the end
  Value bytes_served{0};      // message lane
  Value digests_made{0};      // for readers that ask whether they have the right bytes
  Value notes{0};             // from readers, for whoever asks for them
  Value notes_dropped{0};     // for which there was no room
  // Reader side.
  Value peers{0};  // connects that succeeded
  Value pulls_ok{0};
  Value pulls_failed{0};
  Value bytes_pulled{0};     // of valid pulls
  Value pulls_proven{0};     // valid by their owner's digest
  Value pulls_disproved{0};  // whose bytes were other ones
  Value renewals{0};         // renew messages sent
  // Either side.
  Value slowest_turn_us{0};  // the longest that the control thread was kept from its other duties

  void note_turn(std::uint64_t microseconds) noexcept {
    if (microseconds > slowest_turn_us) slowest_turn_us = microseconds;  // one thread writes it
  }

  using Entry = std::pair<std::string_view, std::uint64_t>;
  [[nodiscard]] std::array<Entry, 22> snapshot() const {
    return {{{"sessions", sessions},
             {"sessions_ended", sessions_ended},
             {"bad_admission", bad_admission},
             {"refused_sessions", refused_sessions},
             {"bad_token", bad_token},
             {"bad_message", bad_message},
             {"refused_runs", refused_runs},
             {"refused_pulls", refused_pulls},
             {"stale_epoch", stale_epoch},
             {"pulls_served", pulls_served},
             {"bytes_served", bytes_served},
             {"digests_made", digests_made},
             {"notes", notes},
             {"notes_dropped", notes_dropped},
             {"peers", peers},
             {"pulls_ok", pulls_ok},
             {"pulls_failed", pulls_failed},
             {"bytes_pulled", bytes_pulled},
             {"pulls_proven", pulls_proven},
             {"pulls_disproved", pulls_disproved},
             {"renewals", renewals},
             {"slowest_turn_us", slowest_turn_us}}};
  }
};

}  // namespace kvdirect
