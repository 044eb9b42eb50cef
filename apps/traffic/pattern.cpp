// SPDX-License-Identifier: Apache-2.0
#include "apps/traffic/pattern.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "pollux/port/spec.hpp"

namespace pollux::apps {
namespace {

constexpr uint32_t kIp = 14;
constexpr uint32_t kUdp = 34;
constexpr uint64_t kMostWeight = 1000;

void put16(uint8_t* to, uint32_t value) {
  to[0] = static_cast<uint8_t>(value >> 8);
  to[1] = static_cast<uint8_t>(value);
}

void put32(uint8_t* to, uint32_t value) {
  put16(to, value >> 16);
  put16(to + 2, value & 0xffff);
}

std::unexpected<Error> wrong_mix(std::string_view text) {
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("size '{}': wants SIZE or SIZE:WEIGHT,..., sizes from {} to {} bytes "
                          "without FCS, weights from 1 to {}",
                          text, kMinFrame, kMaxFrame, kMostWeight));
}

}  // namespace

Result<SizeMix> SizeMix::parse(std::string_view text) {
  SizeMix mix;
  mix.sizes.clear();
  for (std::string_view rest = text; !rest.empty() || mix.sizes.empty();) {
    const std::string_view item = rest.substr(0, rest.find(','));
    const size_t colon = std::min(item.find(':'), item.size());
    const auto size = parse_number(item.substr(0, colon));
    const auto weight =
        colon == item.size() ? std::optional<uint64_t>(1) : parse_number(item.substr(colon + 1));
    if (!size || *size < kMinFrame || *size > kMaxFrame || !weight || *weight == 0 ||
        *weight > kMostWeight) {
      return wrong_mix(text);
    }
    mix.sizes.insert(mix.sizes.end(), *weight, static_cast<uint32_t>(*size));
    rest.remove_prefix(std::min(item.size() + 1, rest.size()));
  }
  return mix;
}

bool PatternConfig::sends_to_itself() const {
  const auto low = [](const std::array<uint8_t, 6>& mac) {
    return uint32_t{mac[3]} << 16 | uint32_t{mac[4]} << 8 | mac[5];
  };
  return std::equal(src.begin(), src.begin() + 3, dst.begin()) &&
         ((low(dst) - low(src)) & 0xffffff) < flows;
}

Pattern::Pattern(const PatternConfig& config)
    : mix_(config.mix.sizes), filling_(config.seed), stream_(config.stream) {
  std::mt19937_64 random(config.seed);
  std::ranges::shuffle(mix_, random);
  for (uint32_t i = 0; i < config.flows; ++i) flows_.push_back(make_flow(config, i));
}

Pattern::Flow Pattern::make_flow(const PatternConfig& config, uint32_t number) {
  Flow flow{};
  uint8_t* h = flow.headers.data();
  std::memcpy(h, config.dst.data(), 6);
  std::memcpy(h + 6, config.src.data(), 6);
  const uint32_t low = (uint32_t{h[9]} << 16 | uint32_t{h[10]} << 8 | h[11]) + number;
  h[9] = static_cast<uint8_t>(low >> 16);
  put16(h + 10, low & 0xffff);
  put16(h + 12, 0x0800);
  h[kIp] = 0x45;
  put16(h + kIp + 6, 0x4000);  // don't fragment
  h[kIp + 8] = 64;             // time to live
  h[kIp + 9] = 17;             // UDP
  // 198.18.0.0/15 is for measurements (RFC 2544).
  put32(h + kIp + 12, (198U << 24 | 18U << 16) + 1 + (number & 0xffff));
  put32(h + kIp + 16, (198U << 24 | 19U << 16) + 1);
  put16(h + kUdp, 1024 + number % 60000);
  put16(h + kUdp + 2, 2048 + number % 50000);
  flow.ip_sum = static_cast<uint32_t>(word_sum(h + kIp, 20));
  flow.udp_sum = static_cast<uint32_t>(word_sum(h + kIp + 12, 8) + 17 + word_sum(h + kUdp, 4));
  return flow;
}

bool Pattern::make(Packet& packet, PoolCache& cache, uint64_t sequence,
                   uint64_t time) const noexcept {
  const Flow& flow = flows_[sequence % flows_.size()];
  const uint32_t size = size_of(sequence);
  const uint32_t filling = size - static_cast<uint32_t>(kHeaders + Stamp::kSize);
  const auto stamp = Stamp{stream_, sequence, time}.encode();
  const uint32_t udp_len = size - kUdp;

  const bool whole = size <= Packet::kHeadCapacity;
  const uint32_t head = whole ? size : static_cast<uint32_t>(Packet::kHeadCopy);
  if (!whole && !cache.append_room(packet, size - head)) return false;
  packet.set_head_size(head);
  auto* h = reinterpret_cast<uint8_t*>(packet.head());
  std::memcpy(h, flow.headers.data(), kHeaders);
  put16(h + kIp + 2, size - kIp);
  put16(h + kIp + 10, static_cast<uint16_t>(~fold(flow.ip_sum + size - kIp)));
  put16(h + kUdp + 4, udp_len);
  const uint16_t sum = fold(flow.udp_sum + 2 * udp_len + word_sum(stamp.data(), stamp.size()) +
                            filling_.sum(sequence, filling));
  put16(h + kUdp + 6, sum == 0xffff ? 0xffff : static_cast<uint16_t>(~sum));
  std::memcpy(h + kHeaders, stamp.data(), stamp.size());

  const uint8_t* from = filling_.window(sequence, filling).data();
  const size_t in_head = head - kHeaders - Stamp::kSize;
  std::memcpy(h + kHeaders + Stamp::kSize, from, in_head);
  from += in_head;
  for (const Segment& segment : packet.tail()) {
    std::memcpy(segment.data, from, segment.len);
    from += segment.len;
  }
  return true;
}

}  // namespace pollux::apps
