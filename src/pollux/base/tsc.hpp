// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace pollux {

/// The CPU's free-running counter: cheap enough to read twice a turn. Only differences on one CPU
/// mean something; on x86-64 it ticks at a constant rate of its own.
[[nodiscard]] inline uint64_t read_tsc() noexcept {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  uint64_t value = 0;
  asm volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
#else
#error "no cycle counter is known for this architecture"
#endif
}

/// Lets a sibling hardware thread run while this one waits.
inline void cpu_relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace pollux
