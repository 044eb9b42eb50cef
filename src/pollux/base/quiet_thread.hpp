// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <thread>
#include <utility>

namespace pollux {

/// Starts a thread of the library's own: the program's signal handlers never run in it. Only
/// signals of its own faults reach it (SIGBUS, SIGSEGV; see mem/sigbus_guard.hpp).
template <typename Body>
[[nodiscard]] std::thread start_quiet_thread(Body&& body) {
  struct Masked {
    sigset_t before{};
    Masked() {
      sigset_t all;
      sigfillset(&all);
      sigdelset(&all, SIGBUS);
      sigdelset(&all, SIGSEGV);
      pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~Masked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
  } masked;  // a new thread inherits the mask
  return std::thread(std::forward<Body>(body));
}

}  // namespace pollux
