// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/checksum.hpp"

#include "pollux/base/cpu.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pollux::net {
namespace {

using Bytes = std::span<const std::byte>;

uint16_t fold(uint64_t sum) {
  sum = (sum & 0xffff'ffff) + (sum >> 32);
  sum = (sum & 0xffff'ffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

uint64_t add_carry(uint64_t a, uint64_t b) {
  const uint64_t sum = a + b;
  return sum + (sum < a ? 1 : 0);
}

template <typename Word>
uint64_t load(const std::byte* from) {
  Word word = 0;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

/// The unfolded sum of any number of bytes, eight at a time.
uint64_t sum_by_8(const std::byte* data, size_t size) {
  uint64_t sum = 0;
  for (; size >= 8; data += 8, size -= 8) sum = add_carry(sum, load<uint64_t>(data));
  if ((size & 4) != 0) {
    sum = add_carry(sum, load<uint32_t>(data));
    data += 4;
  }
  if ((size & 2) != 0) {
    sum = add_carry(sum, load<uint16_t>(data));
    data += 2;
  }
  if ((size & 1) != 0) {
    uint16_t last = 0;  // a zero follows it in memory
    std::memcpy(&last, data, 1);
    sum = add_carry(sum, last);
  }
  return sum;
}

#if defined(__x86_64__)
/// Sums 32-bit words in 64-bit lanes, which can not overflow below 2^32 of them.
__attribute__((target("avx2"))) uint64_t sum_avx2(const std::byte* data, size_t size) {
  const __m256i low_half = _mm256_set1_epi64x(0xffff'ffff);
  __m256i low = _mm256_setzero_si256();
  __m256i high = _mm256_setzero_si256();
  __m256i low2 = _mm256_setzero_si256();
  __m256i high2 = _mm256_setzero_si256();
  for (; size >= 64; data += 64, size -= 64) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + 32));
    low = _mm256_add_epi64(low, _mm256_and_si256(a, low_half));
    high = _mm256_add_epi64(high, _mm256_srli_epi64(a, 32));
    low2 = _mm256_add_epi64(low2, _mm256_and_si256(b, low_half));
    high2 = _mm256_add_epi64(high2, _mm256_srli_epi64(b, 32));
  }
  const __m256i all = _mm256_add_epi64(_mm256_add_epi64(low, high), _mm256_add_epi64(low2, high2));
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), all);
  uint64_t sum = sum_by_8(data, size);
  for (const uint64_t lane : lanes) sum = add_carry(sum, lane);
  return sum;
}

/// From this many bytes on the wide routine pays.
constexpr size_t kWideFrom = 128;
#endif

template <typename Address>
ChecksumSum pseudo(const Address& source, const Address& destination, uint8_t protocol,
                   uint32_t length) {
  ChecksumSum sum;
  sum.add(std::as_bytes(std::span(source)));
  sum.add(std::as_bytes(std::span(destination)));
  sum.add_word(Be16(protocol));
  sum.add_word(Be16(static_cast<uint16_t>(length >> 16)));
  sum.add_word(Be16(static_cast<uint16_t>(length)));
  return sum;
}

}  // namespace

uint16_t sum_portable(Bytes bytes) noexcept { return fold(sum_by_8(bytes.data(), bytes.size())); }

uint16_t sum_words(Bytes bytes) noexcept {
#if defined(__x86_64__)
  if (bytes.size() >= kWideFrom) {
    static const bool kAvx2 = CpuFeatures::detect().avx2;
    if (kAvx2) return fold(sum_avx2(bytes.data(), bytes.size()));
  }
#endif
  return sum_portable(bytes);
}

ChecksumSum pseudo_header(const Ipv4Address& source, const Ipv4Address& destination,
                          uint8_t protocol, uint32_t length) noexcept {
  return pseudo(source, destination, protocol, length);
}

ChecksumSum pseudo_header(const Ipv6Address& source, const Ipv6Address& destination,
                          uint8_t protocol, uint32_t length) noexcept {
  return pseudo(source, destination, protocol, length);
}

}  // namespace pollux::net
