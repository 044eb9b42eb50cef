// SPDX-License-Identifier: Apache-2.0
#include "bench/limit/copies.hpp"

#include <array>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pollux::bench {
namespace {

constexpr size_t kLine = 64;

void by_memcpy(std::byte* to, const std::byte* from, size_t size) { std::memcpy(to, from, size); }

/// Line by line, with the lines some way ahead asked for meanwhile: both ends are in another
/// core's cache.
template <size_t kAhead>
void by_lines(std::byte* to, const std::byte* from, size_t size) {
  using Line = std::array<std::byte, kLine>;
  size_t at = 0;
  for (; at + kLine <= size; at += kLine) {
    __builtin_prefetch(from + at + kAhead, 0, 3);
    __builtin_prefetch(to + at + kAhead, 1, 3);
    Line line;
    std::memcpy(line.data(), from + at, kLine);
    std::memcpy(to + at, line.data(), kLine);
  }
  std::memcpy(to + at, from + at, size - at);
}

#if defined(__x86_64__)
void by_string(std::byte* to, const std::byte* from, size_t size) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
}

[[gnu::target("avx2")]] void by_avx2(std::byte* to, const std::byte* from, size_t size) {
  size_t at = 0;
  for (; at + kLine <= size; at += kLine) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at + 32));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at + 32), b);
  }
  std::memcpy(to + at, from + at, size - at);
}
#endif

std::vector<CopyVariant> all() {
  std::vector<CopyVariant> found{
      {"memcpy", by_memcpy, 0},
      {"memcpy, 2 ahead", by_memcpy, 2},
      {"lines, 1 KiB ahead", by_lines<1024>, 0},
  };
#if defined(__x86_64__)
  found.push_back({"rep movsb", by_string, 0});
  if (__builtin_cpu_supports("avx2")) {
    found.push_back({"avx2", by_avx2, 0});
    found.push_back({"avx2, 2 ahead", by_avx2, 2});
  }
#endif
  return found;
}

}  // namespace

std::span<const CopyVariant> copy_variants() {
  static const std::vector<CopyVariant> variants = all();
  return variants;
}

void copy_all(const CopyVariant& variant, std::span<const CopyJob> jobs) {
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (variant.ahead != 0 && i + variant.ahead < jobs.size()) {
      const CopyJob& next = jobs[i + variant.ahead];
      for (size_t at = 0; at < next.size; at += kLine) {
        __builtin_prefetch(next.from + at, 0, 3);
        __builtin_prefetch(next.to + at, 1, 3);
      }
    }
    variant.copy(jobs[i].to, jobs[i].from, jobs[i].size);
  }
}

}  // namespace pollux::bench
