// SPDX-License-Identifier: Apache-2.0
// What the guests' drivers of session_fuzz.cpp put on their rings, as the input wants it.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "tests/fuzz/session_commands.hpp"
#include "tests/fuzz/session_frames.hpp"
#include "tests/support/lying_front_end.hpp"

namespace pollux::liar {

inline std::vector<uint8_t> some_bytes(FuzzedDataProvider& input, size_t most) {
  return input.ConsumeBytes<uint8_t>(input.ConsumeIntegral<uint8_t>() % most);
}

class Driver {
 public:
  explicit Driver(FuzzedDataProvider& input) : input_(input), commands_(input) {}

  void transmit(FrontEnd& front_end) {
    const auto shape = byte();
    const uint64_t at = buffer();
    spec::virtio_net_hdr hdr{};
    std::vector<uint8_t> bytes;
    const auto payload = input_.ConsumeIntegral<uint16_t>() % 9000;
    switch (shape >> 6) {
      case 0:  // whatever lies there
        bytes.resize(12 + payload % 2000);
        for (size_t i = 0; i < bytes.size(); i += 8) {
          const auto word = front_end.memory().get<uint64_t>(at + i);
          std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
        }
        break;
      case 1: {  // any header
        const auto raw = input_.ConsumeBytes<uint8_t>(sizeof hdr);
        if (!raw.empty()) std::memcpy(&hdr, raw.data(), raw.size());
        break;
      }
      case 2:  // a large segment
        hdr = {1, 1, 54, static_cast<uint16_t>(100 + payload % 1400), 34, 16, 0};
        break;
      default:  // no offloads
        break;
    }
    if (bytes.empty()) {
      bytes = tcp_packet(hdr, payload, destination(shape >> 4), shape & 1);
      fit_header(front_end, bytes);
    }
    send(front_end, 1 + 2 * (shape & 1U), at, bytes, shape);
  }

  /// Segments of one connection, in order: to be joined.
  void stream(FrontEnd& front_end) {
    const auto shape = byte();
    const uint32_t count = 2 + 2 * (shape & 7U);
    const size_t payload = 8 + byte() % 180 * size_t{8};
    const uint8_t cut = count > 8 ? 3 << 2 : 0;  // joined tails in more pieces than a packet has
    const bool partial = (shape & 8) != 0;
    spec::virtio_net_hdr hdr{};
    if (partial) hdr = {1, 0, 0, 0, 34, 16, 0};
    uint64_t at = buffer();
    for (uint32_t n = 0; n < count; ++n) {
      const bool last = n + 1 == count;
      std::vector<uint8_t> bytes =
          tcp_packet(hdr, last && (shape & 0x40) != 0 ? 8 : payload, destination(shape >> 4), 0);
      number_segment(std::span(bytes).subspan(spec::kNetHdrSize), n, last, partial);
      fit_header(front_end, bytes);
      if (at + bytes.size() > kMemory) return;
      send(front_end, 1 + 2 * (shape >> 7), at, bytes, cut);
      at += bytes.size();
    }
  }

  void receive(FrontEnd& front_end) {
    const auto shape = byte();
    constexpr std::array<uint32_t, 4> kSizes{1526, 2048, 128, 16384};
    const unsigned count = 1 + (shape >> 5);
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t at = front_end.address(buffer());
      const auto chain = pieces(at, kSizes[(shape >> 3) & 3], shape >> 1 & 1);
      (void)front_end.ring(2 * (shape & 1U)).offer(chain, true, (shape & 4) != 0, twist());
    }
  }

  /// A command on the control queue, if there is one; where its answer will be.
  std::optional<uint64_t> command(FrontEnd& front_end) {
    if (!front_end.terms().control()) return std::nullopt;
    const std::vector<uint8_t> bytes = commands_.next();
    const auto shape = byte();
    const uint64_t at = kBuffers + uint64_t{byte()} * 16;
    const uint64_t answer = at + bytes.size();
    const uint8_t none = kNoAnswer;
    front_end.memory().put(at, bytes.data(), bytes.size());
    front_end.memory().put(answer, &none, sizeof none);
    auto chain =
        pieces(front_end.address(at), static_cast<uint32_t>(bytes.size()), (shape & 3) % 3);
    chain.push_back({front_end.address(answer), 1, true});
    if (!front_end.ring(kControl).offer(chain, false, (shape & 4) != 0, twist())) {
      return std::nullopt;
    }
    return answer;
  }
  static constexpr uint8_t kNoAnswer = 0xff;

  /// Whether some descriptor was not as it should be.
  [[nodiscard]] bool twisted() const { return twisted_; }

  void scribble(FrontEnd& front_end) {
    const auto at = input_.ConsumeIntegral<uint16_t>();
    const std::vector<uint8_t> bytes = some_bytes(input_, 64);
    front_end.memory().put(at, bytes.data(), bytes.size());
  }

 private:
  uint8_t byte() { return input_.ConsumeIntegral<uint8_t>(); }
  static uint8_t destination(unsigned shape) {
    const auto port = static_cast<uint8_t>(shape & 3);
    return port == 3 ? 0xff : port;
  }
  uint64_t buffer() { return kBuffers + uint64_t{byte()} * 192 % (kMemory - kBuffers); }

  static void fit_header(const FrontEnd& front_end, std::vector<uint8_t>& bytes) {
    if ((front_end.terms().features & spec::VIRTIO_NET_F_HASH_REPORT) != 0) widen_header(bytes);
  }
  void send(FrontEnd& front_end, size_t ring, uint64_t at, std::vector<uint8_t>& bytes,
            uint8_t shape) {
    bytes.resize(std::min<size_t>(bytes.size(), kMemory - at));
    front_end.memory().put(at, bytes.data(), bytes.size());
    const auto chain =
        pieces(front_end.address(at), static_cast<uint32_t>(bytes.size()), shape >> 2);
    (void)front_end.ring(ring).offer(chain, false, (shape & 2) != 0, twist());
  }

  /// `size` bytes at `at`, in up to four pieces, the first cut wherever the input wants.
  std::vector<Piece> pieces(uint64_t at, uint32_t size, unsigned shape) {
    std::vector<Piece> chain;
    const unsigned count = 1 + (shape & 3);
    for (unsigned i = 0; i + 1 < count && size != 0; ++i) {
      const uint32_t cut = std::min<uint32_t>(size, i == 0 ? byte() : size / 2);
      chain.push_back({at, cut});
      at += cut;
      size -= cut;
    }
    chain.push_back({at, size});
    return chain;
  }
  std::optional<Twist> twist() {
    const auto how = byte();
    if (how < 0xe0) return std::nullopt;
    twisted_ = true;
    return Twist{how & 7U, how >> 3 & 3U, input_.ConsumeIntegral<uint64_t>()};
  }

  FuzzedDataProvider& input_;
  CommandMaker commands_;
  bool twisted_ = false;
};

}  // namespace pollux::liar
