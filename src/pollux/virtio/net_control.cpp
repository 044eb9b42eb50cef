// SPDX-License-Identifier: Apache-2.0
#include "pollux/virtio/net_control.hpp"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "pollux/base/endian.hpp"
#include "pollux/virtio/feature_names.hpp"

namespace pollux::virtio {
namespace {

using namespace spec;  // NOLINT(google-build-using-namespace): the commands are names of the text
using Bytes = std::span<const std::byte>;

std::unexpected<Error> refuse(std::string what) {
  return fail(ErrorCode::kProtocol, std::move(what));
}

std::unexpected<Error> unknown(uint8_t command) {
  return refuse(fmt::format("there is no command {} of this class", command));
}

/// `data` as one value of type T and nothing else.
template <typename T>
Result<T> whole(Bytes data) {
  if (data.size() != sizeof(T)) {
    return refuse(fmt::format("its data has {} bytes instead of {}", data.size(), sizeof(T)));
  }
  T value;
  std::memcpy(&value, data.data(), sizeof value);
  return value;
}

/// Cuts a value off the front of `data`.
template <typename T>
bool take(Bytes& data, T& out) {
  if (data.size() < sizeof(T)) return false;
  std::memcpy(&out, data.data(), sizeof(T));
  data = data.subspan(sizeof(T));
  return true;
}

/// One table of MAC_TABLE_SET, cut off the front of `data`.
Result<RxFilterState::MacTable> take_macs(Bytes& data) {
  Le32 entries{};
  if (!take(data, entries)) return refuse("a MAC table's count is missing");
  const size_t count = entries.value();
  if (count > data.size() / net::MacAddress::kSize) {
    return refuse(fmt::format("a MAC table of {} entries has {} bytes", count, data.size()));
  }
  RxFilterState::MacTable table;
  table.overflow = count > RxFilterState::kMaxMacs;
  for (size_t i = 0; !table.overflow && i < count; ++i) {
    net::MacAddress& mac = table.macs.emplace_back();
    std::memcpy(&mac, data.data() + i * sizeof mac, sizeof mac);
  }
  data = data.subspan(count * net::MacAddress::kSize);
  return table;
}

}  // namespace

NetControl::NetControl(const Config& config) : config_(config) {
  state_.filter.mac = config.mac;
  state_.filter.vlan_filter = (config.features & VIRTIO_NET_F_CTRL_VLAN) != 0;
  state_.guest_offloads = config.features & kGuestOffloads;
}

Status NetControl::need(uint64_t feature) const {
  if ((config_.features & feature) != 0) return {};
  return refuse(fmt::format("{} was not negotiated", net_feature_names(feature).front()));
}

Result<ControlEffect> NetControl::apply(Bytes command) {
  virtio_net_ctrl_hdr hdr{};
  if (!take(command, hdr)) return refuse("a command has at least 2 bytes");
  switch (hdr.class_) {
    case VIRTIO_NET_CTRL_RX:
      return rx_mode(hdr.command, command);
    case VIRTIO_NET_CTRL_MAC:
      return mac(hdr.command, command);
    case VIRTIO_NET_CTRL_VLAN:
      return vlan(hdr.command, command);
    case VIRTIO_NET_CTRL_ANNOUNCE:
      return announce(hdr.command, command);
    case VIRTIO_NET_CTRL_MQ:
      return queues(hdr.command, command);
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
      return offloads(hdr.command, command);
    default:
      return refuse(fmt::format("there is no class {} of commands here", hdr.class_));
  }
}

Result<ControlEffect> NetControl::rx_mode(uint8_t command, Bytes data) {
  RxFilterState& filter = state_.filter;
  constexpr std::array kModes{&RxFilterState::promisc, &RxFilterState::allmulti,
                              &RxFilterState::alluni,  &RxFilterState::nomulti,
                              &RxFilterState::nouni,   &RxFilterState::nobcast};
  if (command >= kModes.size()) return unknown(command);
  const bool extra = command > VIRTIO_NET_CTRL_RX_ALLMULTI;
  if (auto ok = need(extra ? VIRTIO_NET_F_CTRL_RX_EXTRA : VIRTIO_NET_F_CTRL_RX); !ok) {
    return forward(ok);
  }
  const auto on = whole<uint8_t>(data);
  if (!on) return forward(on);
  if (*on > 1) return refuse(fmt::format("{} is neither on (1) nor off (0)", *on));
  filter.*kModes[command] = *on == 1;
  return ControlEffect::kFilter;
}

Result<ControlEffect> NetControl::mac(uint8_t command, Bytes data) {
  if (command == VIRTIO_NET_CTRL_MAC_TABLE_SET) return mac_table(data);
  if (command != VIRTIO_NET_CTRL_MAC_ADDR_SET) return unknown(command);
  if (auto ok = need(VIRTIO_NET_F_CTRL_MAC_ADDR); !ok) return forward(ok);
  const auto mac = whole<net::MacAddress>(data);
  if (!mac) return forward(mac);
  if (mac->is_multicast()) return refuse(fmt::format("{} is a group's address", mac->to_text()));
  state_.filter.mac = *mac;
  return ControlEffect::kMac;
}

Result<ControlEffect> NetControl::mac_table(Bytes data) {
  if (auto ok = need(VIRTIO_NET_F_CTRL_RX); !ok) return forward(ok);
  auto unicast = take_macs(data);
  if (!unicast) return forward(unicast);
  auto multicast = take_macs(data);
  if (!multicast) return forward(multicast);
  if (!data.empty()) return refuse(fmt::format("{} bytes follow the MAC tables", data.size()));
  state_.filter.unicast = std::move(*unicast);
  state_.filter.multicast = std::move(*multicast);
  return ControlEffect::kFilter;
}

Result<ControlEffect> NetControl::vlan(uint8_t command, Bytes data) {
  if (command > VIRTIO_NET_CTRL_VLAN_DEL) return unknown(command);
  if (auto ok = need(VIRTIO_NET_F_CTRL_VLAN); !ok) return forward(ok);
  const auto id = whole<Le16>(data);
  if (!id) return forward(id);
  if (id->value() >= kVlanIds) return refuse(fmt::format("there is no VLAN {}", id->value()));
  state_.filter.vlans[id->value()] = command == VIRTIO_NET_CTRL_VLAN_ADD;
  return ControlEffect::kFilter;
}

Result<ControlEffect> NetControl::announce(uint8_t command, Bytes data) const {
  if (command != VIRTIO_NET_CTRL_ANNOUNCE_ACK) return unknown(command);
  if (auto ok = need(VIRTIO_NET_F_GUEST_ANNOUNCE); !ok) return forward(ok);
  if (!data.empty()) return refuse(fmt::format("it has {} bytes of data", data.size()));
  return ControlEffect::kNone;  // nobody asked; some drivers say so all the same
}

Result<ControlEffect> NetControl::queues(uint8_t command, Bytes data) {
  switch (command) {
    case VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
      return queue_pairs(data);
    case VIRTIO_NET_CTRL_MQ_RSS_CONFIG:
      return rss(data);
    case VIRTIO_NET_CTRL_MQ_HASH_CONFIG:
      return hash(data);
    default:
      return unknown(command);
  }
}

Result<ControlEffect> NetControl::queue_pairs(Bytes data) {
  if (auto ok = need(VIRTIO_NET_F_MQ); !ok) return forward(ok);
  const auto pairs = whole<Le16>(data);
  if (!pairs) return forward(pairs);
  if (pairs->value() < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN ||
      pairs->value() > config_.max_queue_pairs) {
    return refuse(fmt::format("{} queue pairs, but there are 1 to {}", pairs->value(),
                              config_.max_queue_pairs));
  }
  state_.queue_pairs = pairs->value();
  state_.rss.reset();  // 5.1.6.5.5: the last command decides
  return ControlEffect::kQueues;
}

/// `rest` is u8 hash_key_length and as many bytes.
Result<HashState> NetControl::check_hash(uint32_t types, Bytes rest) const {
  if ((types & ~kHashTypes) != 0) {
    return refuse(fmt::format("hash types {:#x} are not supported", types & ~kHashTypes));
  }
  uint8_t length = 0;
  if (!take(rest, length) || length > kRssKeySize || rest.size() != length) {
    return refuse(fmt::format("a hash key of {} bytes comes with {}; it has at most {}", length,
                              rest.size(), kRssKeySize));
  }
  return HashState{types, {rest.begin(), rest.end()}};
}

Result<ControlEffect> NetControl::rss(Bytes data) {
  if (auto ok = need(VIRTIO_NET_F_RSS); !ok) return forward(ok);
  virtio_net_rss_config_head head{};
  if (!take(data, head)) return refuse("the RSS configuration is short");
  const uint32_t length = head.indirection_table_mask.value() + 1U;
  if (length > kRssTableLength || !std::has_single_bit(length)) {
    return refuse(fmt::format("an indirection table of {} entries: it is a power of two up to {}",
                              length, kRssTableLength));
  }
  RssState rss;
  rss.unclassified = head.unclassified_queue.value();
  bool in_range = rss.unclassified < config_.max_queue_pairs;
  for (uint32_t i = 0; i < length; ++i) {
    Le16 queue{};
    if (!take(data, queue)) return refuse("the indirection table is short");
    rss.table.push_back(queue.value());
    in_range = in_range && queue.value() < config_.max_queue_pairs;
  }
  if (!in_range) {
    return refuse(fmt::format("the indirection table names queues beyond the {} that there are",
                              config_.max_queue_pairs));
  }
  Le16 max_tx{};
  if (!take(data, max_tx) || max_tx.value() == 0 || max_tx.value() > config_.max_queue_pairs) {
    return refuse(fmt::format("max_tx_vq must be 1 to {}", config_.max_queue_pairs));
  }
  auto hash = check_hash(head.hash_types.value(), data);
  if (!hash) return forward(hash);
  state_.rss = std::move(rss);
  state_.hash = std::move(*hash);
  state_.queue_pairs = max_tx.value();
  return ControlEffect::kQueues;
}

Result<ControlEffect> NetControl::hash(Bytes data) {
  if (auto ok = need(VIRTIO_NET_F_HASH_REPORT); !ok) return forward(ok);
  constexpr size_t kReserved = 4 * sizeof(Le16);
  Le32 types{};
  if (!take(data, types) || data.size() < kReserved) {
    return refuse("the hash configuration is short");
  }
  auto hash = check_hash(types.value(), data.subspan(kReserved));
  if (!hash) return forward(hash);
  state_.hash = std::move(*hash);
  return ControlEffect::kQueues;
}

Result<ControlEffect> NetControl::offloads(uint8_t command, Bytes data) {
  if (command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) return unknown(command);
  if (auto ok = need(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS); !ok) return forward(ok);
  const auto wanted = whole<Le64>(data);
  if (!wanted) return forward(wanted);
  if (const uint64_t beyond = wanted->value() & ~(config_.features & kGuestOffloads); beyond != 0) {
    return refuse(fmt::format("offloads {:#x} were not negotiated", beyond));
  }
  state_.guest_offloads = wanted->value();
  return ControlEffect::kOffloads;
}

}  // namespace pollux::virtio
