// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>

namespace pollux {

/// A peer can truncate a file after we mapped it; the next access then raises SIGBUS. Registered
/// ranges survive that: the handler maps a page of zeros in place and sets the range's flag.
/// A SIGBUS anywhere else does what it did before. Signal handlers belong to the process, hence
/// this is the library's only process-wide state. Thread-safe.

/// Installs the handler on first use and watches [base, base + size). Returns a slot for
/// `sigbus_unguard`, or -1 when all slots are taken (the range is then unguarded).
[[nodiscard]] int sigbus_guard(void* base, size_t size, std::atomic<bool>* faulted);
void sigbus_unguard(int slot);

/// Maps zeros of our own in place of a range, while other threads may be using it. False: nothing
/// was changed. May be called in a signal handler.
[[nodiscard]] bool map_zeros(void* base, size_t size) noexcept;

}  // namespace pollux
