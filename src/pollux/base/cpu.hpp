// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace pollux {

/// What the CPU that this process runs on can do beyond the x86-64-v2 that every build needs.
/// All false on other machines, where the portable routines are used.
struct CpuFeatures {
  bool avx2 = false;
  bool avx512 = false;  ///< F, BW, DQ and VL together

  /// Asks the CPU (and whether the operating system saves the wide registers). Cheap.
  [[nodiscard]] static CpuFeatures detect() noexcept {
    CpuFeatures found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    found.avx2 = __builtin_cpu_supports("avx2") != 0;
    found.avx512 =
        __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
        __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
#endif
    return found;
  }
};

}  // namespace pollux
