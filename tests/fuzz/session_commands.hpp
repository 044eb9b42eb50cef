// SPDX-License-Identifier: Apache-2.0
// Commands of a control queue as an input of session_fuzz.cpp wants them: as they should be, but
// for their numbers, or any bytes.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pollux/spec/virtio_net.hpp"
#include "pollux/spec/virtio_net_control.hpp"
#include "pollux/virtio/net_control.hpp"

namespace pollux::liar {

class CommandMaker {
 public:
  explicit CommandMaker(FuzzedDataProvider& input) : input_(input) {}

  std::vector<uint8_t> next() {
    using namespace spec;
    bytes_.clear();
    const auto how = byte();
    switch (how & 15) {
      case 0:
      case 1:
        begin(VIRTIO_NET_CTRL_RX, how >> 4 & 7);
        put(1, how >> 7);
        break;
      case 2:
        begin(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET);
        table(how >> 4 & 3, 2);
        table(how >> 6, 3);
        break;
      case 3:
        begin(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET);
        address(how >> 7 | 2, byte());
        break;
      case 4:
        begin(VIRTIO_NET_CTRL_VLAN, how >> 7);
        put(2, byte() * 32U);
        break;
      case 5:
        begin(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK);
        break;
      case 6:
      case 7:
        begin(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
        put(2, how >> 4 & 3);
        break;
      case 8:
      case 9:
        begin(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET);
        put(8, offloads(how >> 4));
        break;
      case 10:
      case 11:
      case 12:
        rss(how >> 4);
        break;
      case 13:
        begin(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_HASH_CONFIG);
        put(4, byte() & virtio::NetControl::kHashTypes);
        put(8, 0);
        key(how >> 4);
        break;
      default:
        bytes_ = input_.ConsumeBytes<uint8_t>(byte());
        return bytes_;
    }
    spoil();
    return bytes_;
  }

 private:
  uint8_t byte() { return input_.ConsumeIntegral<uint8_t>(); }
  void put(size_t size, uint64_t value) {
    for (size_t i = 0; i < size; ++i) bytes_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  void begin(unsigned class_, unsigned command) {
    put(1, class_);
    put(1, command);
  }
  void address(unsigned first, unsigned last) {
    put(1, first);
    put(4, 0);
    put(1, last);
  }
  void table(unsigned count, unsigned first) {
    put(4, count);
    for (unsigned i = 0; i < count; ++i) address(first, i);
  }
  static uint64_t offloads(unsigned which) {
    uint64_t bits = 0;
    if ((which & 1) != 0) bits |= spec::VIRTIO_NET_F_GUEST_CSUM;
    if ((which & 2) != 0) bits |= spec::VIRTIO_NET_F_GUEST_TSO4;
    if ((which & 4) != 0) bits |= spec::VIRTIO_NET_F_GUEST_TSO6;
    if ((which & 8) != 0) bits |= spec::VIRTIO_NET_F_GUEST_ECN;
    return bits;
  }
  void key(unsigned how) {
    const size_t size = how == 0 ? 0 : spec::kRssKeySize;
    put(1, size);
    for (size_t i = 0; i < size; ++i) put(1, i * how);
  }
  void rss(unsigned how) {
    begin(spec::VIRTIO_NET_CTRL_MQ, spec::VIRTIO_NET_CTRL_MQ_RSS_CONFIG);
    const auto queues = byte();
    const unsigned length = 1U << (how & 7);
    put(4, queues & virtio::NetControl::kHashTypes);
    put(2, length - 1);
    put(2, queues >> 6 & 1);
    for (unsigned i = 0; i < length; ++i) put(2, queues >> (i & 7) & 1);
    put(2, 1 + (queues >> 7));
    key(how);
  }
  /// Some are not as they should be.
  void spoil() {
    const auto how = byte();
    if (how < 0xf0) return;
    const auto at = byte() % bytes_.size();
    if ((how & 1) != 0) {
      bytes_[at] = byte();
    } else {
      bytes_.resize((how & 2) != 0 ? at : bytes_.size() + at);
    }
  }

  FuzzedDataProvider& input_;
  std::vector<uint8_t> bytes_;
};

}  // namespace pollux::liar
