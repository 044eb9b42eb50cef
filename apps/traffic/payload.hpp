// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace pollux::apps {

/// What `gen` puts behind the UDP header and `sink` checks, big endian:
///
///     2 bytes  kMagic          6 bytes  sequence number, from 0 in each stream
///     2 bytes  stream          8 bytes  CLOCK_MONOTONIC in ns when the frame was made
///     rest     bytes of Filling, from a place that the sequence number decides
struct Stamp {
  static constexpr uint16_t kMagic = 0x504c;
  static constexpr size_t kSize = 18;

  uint16_t stream = 0;
  uint64_t sequence = 0;
  uint64_t time = 0;

  [[nodiscard]] std::array<uint8_t, kSize> encode() const noexcept {
    std::array<uint8_t, kSize> out;
    put(out.data(), kMagic, 2);
    put(out.data() + 2, stream, 2);
    put(out.data() + 4, sequence, 6);
    put(out.data() + 10, time, 8);
    return out;
  }
  /// False when the magic number is not there.
  [[nodiscard]] bool decode(const uint8_t* from) noexcept {
    stream = static_cast<uint16_t>(get(from + 2, 2));
    sequence = get(from + 4, 6);
    time = get(from + 10, 8);
    return get(from, 2) == kMagic;
  }

 private:
  static void put(uint8_t* to, uint64_t value, int size) noexcept {
    for (int i = size - 1; i >= 0; --i, value >>= 8) to[i] = static_cast<uint8_t>(value);
  }
  static uint64_t get(const uint8_t* from, int size) noexcept {
    uint64_t value = 0;
    for (int i = 0; i < size; ++i) value = value << 8 | from[i];
    return value;
  }
};

/// Pseudo-random bytes made from a seed once; a frame's filling is a window of them, so that
/// making and checking it is a copy and a comparison, and its Internet checksum two look-ups.
class Filling {
 public:
  static constexpr size_t kMost = 65536;  ///< longest window

  explicit Filling(uint64_t seed) : bytes_(kMost + kOffsets), sums_(bytes_.size() / 2 + 1) {
    for (size_t i = 0; i + 8 <= bytes_.size(); i += 8) {
      const uint64_t word = next(seed);
      std::memcpy(bytes_.data() + i, &word, 8);
    }
    for (size_t i = 0; i < bytes_.size() / 2; ++i) {
      sums_[i + 1] = sums_[i] + (uint64_t{bytes_[2 * i]} << 8 | bytes_[2 * i + 1]);
    }
  }

  /// The filling of that frame.
  [[nodiscard]] std::span<const uint8_t> window(uint64_t sequence, size_t size) const noexcept {
    return {bytes_.data() + offset_of(sequence), size};
  }

  /// The sum of its 16-bit words, the last byte of an odd one padded with zero (RFC 1071).
  [[nodiscard]] uint64_t sum(uint64_t sequence, size_t size) const noexcept {
    const size_t first = offset_of(sequence) / 2;
    const uint64_t whole = sums_[first + size / 2] - sums_[first];
    return size % 2 == 0 ? whole : whole + (uint64_t{bytes_[2 * (first + size / 2)]} << 8);
  }

 private:
  static constexpr size_t kOffsets = 8192;

  static size_t offset_of(uint64_t sequence) noexcept {
    return (sequence * 0x9e3779b97f4a7c15U >> 51) & ~size_t{1};
  }
  static uint64_t next(uint64_t& state) noexcept {  // splitmix64
    state += 0x9e3779b97f4a7c15U;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  std::vector<uint8_t> bytes_;
  std::vector<uint64_t> sums_;  // of all words before
};

/// The sum of the 16-bit words of an even number of bytes.
[[nodiscard]] inline uint64_t word_sum(const uint8_t* bytes, size_t size) noexcept {
  uint64_t sum = 0;
  for (size_t i = 0; i < size; i += 2) sum += uint64_t{bytes[i]} << 8 | bytes[i + 1];
  return sum;
}

/// RFC 1071: folded to 16 bits.
[[nodiscard]] inline uint16_t fold(uint64_t sum) noexcept {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

}  // namespace pollux::apps
