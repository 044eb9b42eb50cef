// SPDX-License-Identifier: Apache-2.0
#include "pollux/net/flow_hash.hpp"

#include <bit>
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

uint32_t flow_hash(std::span<const std::byte> head, const ParsedHeaders& headers, uint64_t seed,
                   FlowDirection direction) noexcept {
  const bool reverse = direction == FlowDirection::kReverse;
  Mixer mixer(seed);
  const auto add_ends = [&](const auto& from, const auto& to) {
    mixer.add(reverse ? to : from);
    mixer.add(reverse ? from : to);
  };
  Ipv4Header v4;
  Ipv6Header v6;
  if (headers.ip_version == 4 && read_at(head, headers.l3_offset, v4)) {
    add_ends(v4.source, v4.destination);
  } else if (headers.ip_version == 6 && read_at(head, headers.l3_offset, v6)) {
    add_ends(v6.source, v6.destination);
  } else {
    if (head.size() < kEthernetHeaderSize) return mixer.value();
    add_ends(source_key(head.data()), destination_key(head.data()));
    return mixer.value();
  }
  uint32_t ports = 0;
  const bool has_ports = headers.payload_offset != 0 && !headers.fragment;
  if (has_ports && !read_at(head, headers.l4_offset, ports)) ports = 0;
  if (reverse) ports = std::rotl(ports, 16);
  mixer.add(uint64_t{ports} << 8 | headers.ip_proto);
  return mixer.value();
}

}  // namespace pollux::net
