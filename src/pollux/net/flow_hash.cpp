// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/flow_hash.hpp"

#include <cstring>

#include "pollux/net/wire.hpp"

namespace pollux::net {
namespace {

/// Folded multiplication: the two halves of the product, mixed.
uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

class Mixer {
 public:
  explicit Mixer(uint64_t seed) : state_(seed ^ kOdd) {}
  void add(uint64_t word) { state_ = mix(state_ ^ word, kOdd); }
  template <size_t kSize>
  void add(const std::array<uint8_t, kSize>& bytes) {
    for (size_t i = 0; i < kSize; i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + i, kSize < 8 ? kSize : 8);
      add(word);
    }
  }
  [[nodiscard]] uint32_t value() const {
    const auto folded = static_cast<uint32_t>(state_ ^ (state_ >> 32));
    return folded != 0 ? folded : 1;
  }

 private:
  static constexpr uint64_t kOdd = 0x9e37'79b9'7f4a'7c15;  // 2^64 / golden ratio
  uint64_t state_;
};

}  // namespace

uint32_t flow_hash(std::span<const std::byte> head, const ParsedHeaders& headers,
                   uint64_t seed) noexcept {
  Mixer mixer(seed);
  Ipv4Header v4;
  Ipv6Header v6;
  if (headers.ip_version == 4 && read_at(head, headers.l3_offset, v4)) {
    mixer.add(v4.source);
    mixer.add(v4.destination);
  } else if (headers.ip_version == 6 && read_at(head, headers.l3_offset, v6)) {
    mixer.add(v6.source);
    mixer.add(v6.destination);
  } else {
    if (head.size() < kEthernetHeaderSize) return mixer.value();
    mixer.add(destination_key(head.data()));
    mixer.add(source_key(head.data()));
    return mixer.value();
  }
  uint32_t ports = 0;
  const bool has_ports = headers.payload_offset != 0 && !headers.fragment;
  if (has_ports && !read_at(head, headers.l4_offset, ports)) ports = 0;
  mixer.add(uint64_t{ports} << 8 | headers.ip_proto);
  return mixer.value();
}

}  // namespace pollux::net
