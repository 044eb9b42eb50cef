// SPDX-License-Identifier: Apache-2.0
// What the front ends of session_fuzz.cpp say, as the input wants it, and what they do to the
// in-flight regions that they keep.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/fuzz/session_driver.hpp"
#include "tests/fuzz/session_terms.hpp"
#include "tests/support/lying_front_end.hpp"

namespace pollux::liar {

using vhost::make_request;
using vhost::Message;

class Speaker {
 public:
  Speaker(FuzzedDataProvider& input, const Descriptors& fds) : input_(input), fds_(fds) {}

  /// A message as it should be, but for its numbers.
  void something(FrontEnd& front_end) {
    using namespace spec;
    const auto which = byte();
    const auto arg = byte();
    const uint32_t ring = arg % (kRings + 1);
    const uint64_t shift = (arg & 3U) * kMemory;
    const VhostUserMemoryRegion region{kGuest + shift, kMemory, kUser + shift, 0};
    const auto say = [&](uint32_t request, const auto& payload, const std::vector<int>& fds = {}) {
      Message message = make_request(request, payload);
      if ((which & 0x80) == 0) message.flags |= VHOST_USER_NEED_REPLY_MASK;
      (void)front_end.say(message, fds);
      front_end.look_after();
    };
    switch (which & 0x1f) {
      case 0:
        return say(VHOST_USER_GET_VRING_BASE, vhost_vring_state{ring, 0});
      case 1:
        return say(VHOST_USER_SET_VRING_BASE, vhost_vring_state{ring, arg * 0x10101U});
      case 2:
        return say(VHOST_USER_SET_VRING_ADDR, front_end.addresses(ring));
      case 3:
        return say(VHOST_USER_SET_VRING_NUM,
                   vhost_vring_state{ring, 1U << (arg / (kRings + 1) % 12)});
      case 4:
        return say(VHOST_USER_SET_VRING_KICK, uint64_t{ring}, {fds_.at(arg / (kRings + 1))});
      case 5:
        return say(VHOST_USER_SET_VRING_CALL, uint64_t{ring}, {fds_.at(arg / (kRings + 1))});
      case 6:
        return say(VHOST_USER_SET_VRING_ERR, uint64_t{ring}, {fds_.at(arg / (kRings + 1))});
      case 7:
        return say(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{ring, (arg >> 7) ^ 1U});
      case 8:
        return say(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region}, {fds_.at(arg >> 7)});
      case 9:
        return say(VHOST_USER_REM_MEM_REG, VhostUserMemRegMsg{0, region});
      case 10: {
        Message table = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{1});
        table.put(region);
        (void)front_end.say(table, {fds_.at(arg >> 7)});
        return front_end.look_after();
      }
      case 11:
        return say(VHOST_USER_SET_STATUS, uint64_t{arg});
      case 12:
        return say(VHOST_USER_SET_LOG_FD, uint64_t{0}, {fds_.at(arg)});
      case 13:
        return say(VHOST_USER_SET_FEATURES, features(arg));
      case 14:
        return say(VHOST_USER_SEND_RARP, uint64_t{0x020000000002} | uint64_t{arg} << 32);
      case 15:
        return say(VHOST_USER_NET_SET_MTU, uint64_t{arg} << 4);
      case 16:
        return say(VHOST_USER_SET_BACKEND_REQ_FD, uint64_t{0}, {fds_.at(arg)});
      case 17:
        return say(VHOST_USER_VRING_KICK, vhost_vring_state{ring, 0});
      case 18:
        return say(VHOST_USER_SET_PROTOCOL_FEATURES, uint64_t{arg} << 3);
      default: {  // messages without payload
        constexpr std::array<uint32_t, 12> kPlain{
            VHOST_USER_POSTCOPY_ADVISE,       VHOST_USER_POSTCOPY_LISTEN,
            VHOST_USER_POSTCOPY_END,          VHOST_USER_RESET_OWNER,
            VHOST_USER_RESET_DEVICE,          VHOST_USER_GET_STATUS,
            VHOST_USER_GET_QUEUE_NUM,         VHOST_USER_GET_MAX_MEM_SLOTS,
            VHOST_USER_CHECK_DEVICE_STATE,    VHOST_USER_GET_FEATURES,
            VHOST_USER_GET_PROTOCOL_FEATURES, VHOST_USER_SET_OWNER};
        (void)front_end.say(make_request(kPlain[arg % kPlain.size()]));
        return front_end.look_after();
      }
    }
  }

  /// Any bytes with any descriptors.
  void anything(FrontEnd& front_end) {
    const auto fds = byte();
    std::vector<int> with;
    for (unsigned i = 0; i < (fds & 7U); ++i) with.push_back(fds_.at((fds >> 3) + i));
    const auto text = input_.ConsumeBytes<std::byte>(1 + byte());
    if (!text.empty()) (void)front_end.say_raw(text, with);
    front_end.look_after();
  }

  /// A mapping, or its end: pages where they should be, or whatever the input likes.
  void map(FrontEnd& front_end) {
    const auto how = byte();
    const uint64_t page = (byte() % 32) * kPage;
    uint64_t size = (1 + (how >> 5)) * kPage;
    uint64_t user = kUser + page;
    if ((how & 0x10) != 0) size = input_.ConsumeIntegral<uint64_t>();
    if ((how & 0x08) != 0) user = kUser + input_.ConsumeIntegral<uint16_t>();
    const uint8_t type = (how & 4) != 0 ? spec::VHOST_IOTLB_INVALIDATE : spec::VHOST_IOTLB_UPDATE;
    front_end.map(kIova + page, size, user, how & 3, type);
    front_end.look_after();
  }

  void answer(FrontEnd& front_end) {
    const auto how = byte();
    std::vector<uint8_t> bytes;
    if (how % 4 == 3) bytes = some_bytes(input_, 64);
    front_end.answer(how % 4, std::as_bytes(std::span(bytes)));
  }

  void change_log(FrontEnd& front_end) {
    const auto how = byte();
    if ((how & 1) != 0) front_end.give_log((how & 0x40) != 0 ? 16 : kPage, (how >> 1 & 1) * kPage);
    front_end.set_features((how & 0x80) != 0);
  }

  /// The state goes into the pipe or comes out of it; the input may have put something there.
  void move_state(FrontEnd& front_end) {
    const auto how = byte();
    if ((how & 2) != 0) {
      const std::vector<uint8_t> bytes = some_bytes(input_, 32);
      (void)!write(fds_.pipe(true), bytes.data(), bytes.size());
    }
    if ((how & 0x10) != 0) {  // of the device's own making, but for its numbers
      constexpr std::string_view kMagic = "pollux-n";
      const std::array<uint16_t, 4> rest{static_cast<uint16_t>(1 + (how >> 6 & 1)), 0,
                                         static_cast<uint16_t>(byte() * 16), 0};
      (void)!write(fds_.pipe(true), kMagic.data(), kMagic.size());
      (void)!write(fds_.pipe(true), rest.data(), sizeof rest);
    }
    const bool load = (how & 1) != 0;
    const spec::VhostUserTransferDeviceState wanted{load ? 1U : 0U,
                                                    static_cast<uint32_t>(how >> 7)};
    for (uint32_t ring = 0; ring < front_end.terms().rings() && (how & 4) != 0; ++ring) {
      (void)front_end.say(
          make_request(spec::VHOST_USER_GET_VRING_BASE, spec::vhost_vring_state{ring, 0}));
    }
    (void)front_end.say(make_request(spec::VHOST_USER_SET_DEVICE_STATE_FD, wanted),
                        {fds_.pipe(!load)});
    front_end.look_after();
    if ((how & 8) != 0) (void)front_end.say(make_request(spec::VHOST_USER_CHECK_DEVICE_STATE));
  }

  /// An in-flight region: given, asked for, cut short, or written to by who is no back end.
  void inflight(FrontEnd& front_end) {
    const auto how = byte();
    spec::VhostUserInflight told = front_end.region();
    switch (how & 7) {
      case 0:
        return front_end.give_region(told, fds_.inflight());
      case 1:
        told.num_queues = how >> 3;
        told.queue_size = input_.ConsumeIntegral<uint16_t>();
        told.mmap_size = (how & 0x80) != 0 ? input_.ConsumeIntegral<uint64_t>() : kMemory;
        told.mmap_offset = byte() * uint64_t{32};
        return front_end.give_region(told, fds_.inflight());
      case 2: {
        told.queue_size = static_cast<uint16_t>(16U << (how >> 5));
        const UniqueFd fd = front_end.ask_region(told);
        if (fd) front_end.give_region(told, fd.get());
        return;
      }
      case 3:
        (void)!ftruncate(fds_.inflight(), static_cast<off_t>((byte() & 15U) * kPage));
        return;
      case 4: {
        const auto at = input_.ConsumeIntegral<uint16_t>();
        const std::vector<uint8_t> bytes = some_bytes(input_, 64);
        return front_end.region_memory().put(at, bytes.data(), bytes.size());
      }
      default:
        return front_end.terms().packed ? note_packed(front_end, (how >> 3) % (kRings + 1))
                                        : note_split(front_end, (how >> 3) % (kRings + 1));
    }
  }

 private:
  uint8_t byte() { return input_.ConsumeIntegral<uint8_t>(); }

  static uint64_t features(uint8_t arg) {
    const uint64_t all = (arg & 1U) != 0 ? kOffered : kAlways;
    return (arg & 2U) != 0 ? (all | kCommands) & ~(spec::VIRTIO_NET_F_MQ | spec::VIRTIO_NET_F_RSS)
                           : all;
  }

  static size_t place(const FrontEnd& front_end, uint32_t ring) {
    const spec::VhostUserInflight told = front_end.region();
    return told.mmap_offset + ring * told.mmap_size / told.num_queues;
  }

  /// What a back end leaves that has taken a few chains, in any order, and was returning others.
  void note_split(FrontEnd& front_end, uint32_t ring) {
    const size_t at = place(front_end, ring);
    const auto how = byte();
    spec::QueueRegionSplit head{};
    head.version = (how & 0x80) != 0 ? byte() : spec::kInflightVersion;
    head.desc_num = 64;
    head.last_batch_head = how & 0x3f;
    head.used_idx = static_cast<uint16_t>(front_end.ring(ring).used() - (byte() & 3U));
    front_end.region_memory().put(at, &head, sizeof head);
    for (unsigned n = 0; n < (how & 7U); ++n) {
      const auto entry = byte();
      const spec::DescStateSplit desc{static_cast<uint8_t>(entry >> 6 == 3 ? 0 : 1),
                                      {},
                                      static_cast<uint16_t>(entry & 0x3f),
                                      byte()};
      front_end.region_memory().put(at + sizeof head + sizeof desc * (entry & 0x3f), &desc,
                                    sizeof desc);
    }
  }
  void note_packed(FrontEnd& front_end, uint32_t ring) {
    const size_t at = place(front_end, ring);
    const auto how = byte();
    const auto used = static_cast<uint16_t>(front_end.ring(ring).used());
    spec::QueueRegionPacked head{};
    head.version = (how & 0x80) != 0 ? byte() : spec::kInflightVersion;
    head.desc_num = 64;
    head.free_head = head.old_free_head = byte() % 65;
    head.used_idx = static_cast<uint16_t>((used & 0x7fff) + (how >> 3 & 3));
    head.old_used_idx = used & 0x7fff;
    head.used_wrap_counter = head.old_used_wrap_counter = static_cast<uint8_t>(used >> 15);
    front_end.region_memory().put(at, &head, sizeof head);
    for (unsigned n = 0; n < (how & 7U); ++n) {
      const auto entry = byte();
      const auto shape = byte();
      spec::DescStatePacked desc{};
      desc.inflight = entry >> 6 == 3 ? 0 : 1;
      desc.next = (entry + 1U) & 0x3f;
      desc.num = 1 + (shape & 3);
      desc.last = static_cast<uint16_t>((entry & 0x3f) + (shape >> 2 & 3));
      desc.counter = n;
      desc.id = shape >> 4;
      front_end.region_memory().put(at + sizeof head + sizeof desc * (entry & 0x3f), &desc,
                                    sizeof desc);
    }
  }

  FuzzedDataProvider& input_;
  const Descriptors& fds_;
};

}  // namespace pollux::liar
