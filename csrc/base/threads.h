// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

#include <pthread.h>

#include <csignal>

namespace kvdirect {

// Signals belong to the application's threads.
inline void block_signals() noexcept {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

// At most 15 characters.
inline void name_thread(const char* text) noexcept { pthread_setname_np(pthread_self(), text); }

}  // namespace kvdirect
