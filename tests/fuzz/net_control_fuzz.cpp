// SPDX-License-Identifier: Apache-2.0
// Commands of a driver's control queue, one after the other, whatever was negotiated: the state
// stays within what the data path relies on, and a refused command changes nothing.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "pollux/packet/burst.hpp"
#include "pollux/virtio/net_control.hpp"
#include "pollux/virtio/packet_hash.hpp"
#include "pollux/virtio/rx_filter.hpp"

namespace {

using pollux::virtio::NetControl;
using pollux::virtio::NetControlState;

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const NetControlState& state, const NetControl::Config& config) {
  require(state.queue_pairs >= 1 && state.queue_pairs <= config.max_queue_pairs);
  require(state.filter.unicast.macs.size() <= pollux::virtio::RxFilterState::kMaxMacs);
  require(state.filter.multicast.macs.size() <= pollux::virtio::RxFilterState::kMaxMacs);
  require((state.guest_offloads & ~config.features) == 0);
  require((state.hash.types & ~NetControl::kHashTypes) == 0);
  require(state.hash.key.size() <= pollux::spec::kRssKeySize);
  if (!state.rss) return;
  require(std::has_single_bit(state.rss->table.size()));
  require(state.rss->table.size() <= pollux::spec::kRssTableLength);
  require(state.rss->unclassified < config.max_queue_pairs);
  for (const uint16_t queue : state.rss->table) require(queue < config.max_queue_pairs);
}

/// What the data path does with it: any frame is taken or not, and has a hash.
void use(const NetControlState& state, std::span<const std::byte> frame) {
  auto packet = std::make_unique<pollux::Packet>();
  packet->reset();
  const size_t size = std::min(frame.size(), pollux::Packet::kHeadCapacity);
  std::memcpy(packet->head(), frame.data(), size);
  packet->set_head_size(static_cast<uint32_t>(size));
  (void)pollux::virtio::RxFilter(state.filter).accepts(*packet);
  (void)pollux::virtio::PacketHash(state.hash).of(*packet);
}

}  // namespace

/// 8 bytes of features, one of queue pairs, then commands: two bytes of length, and the command.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::span<const std::byte> rest = std::as_bytes(std::span(data, size));
  if (rest.size() < 9) return 0;
  NetControl::Config config;
  std::memcpy(&config.features, rest.data(), 8);
  config.max_queue_pairs = static_cast<uint16_t>(1 + (data[8] & 0x7f));
  rest = rest.subspan(9);
  NetControl control(config);
  while (rest.size() >= 2) {
    uint16_t length = 0;
    std::memcpy(&length, rest.data(), 2);
    rest = rest.subspan(2);
    const auto command = rest.first(std::min<size_t>(length, rest.size()));
    rest = rest.subspan(command.size());
    const bool promisc = control.state().filter.promisc;
    const uint16_t pairs = control.state().queue_pairs;
    if (!control.apply(command)) {
      require(control.state().filter.promisc == promisc);
      require(control.state().queue_pairs == pairs);
    }
    check(control.state(), config);
    if (!command.empty()) use(control.state(), command);
  }
  return 0;
}
