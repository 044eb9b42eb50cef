// SPDX-License-Identifier: Apache-2.0
// Generic segmentation: cutting a large TCP or UDP packet into what fits on the wire, or a large
// datagram into IP fragments, byte for byte as Linux does (net/ipv4/tcp_offload.c,
// net/ipv4/udp_offload.c).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "pollux/base/drop_reason.hpp"
#include "pollux/base/endian.hpp"
#include "pollux/net/parse.hpp"
#include "pollux/packet/burst.hpp"
#include "pollux/packet/tx_offloads.hpp"

namespace pollux::stage {

/// True if a receiver that agreed to `offloads` takes this GSO packet whole.
[[nodiscard]] inline bool takes_gso(const PacketMeta& meta, uint32_t offloads) noexcept {
  // By GsoType.
  constexpr std::array<uint32_t, 7> kNeeds{0, kTxTso4, kTxTso6, kTxUso4, kTxUso6, kTxUfo, kTxUfo};
  uint32_t needs = kNeeds[static_cast<size_t>(meta.gso)] | kTxChecksum;
  if (meta.gso_ecn) needs |= kTxTsoEcn;
  return (offloads & needs) == needs;
}

/// Cuts one GSO packet into segments, a burst at a time. Each segment is a packet of its own whose
/// head holds copied and corrected headers; payload that does not fit there is borrowed from the
/// original, which must live unchanged until the turn ends. Checksums are left to the receiver
/// when `offloads` has kTxChecksum, else complete.
///
///     TSO, USO   segment = [headers][part of payload]
///     UFO        fragment = [headers up to IP][part of UDP header and payload]; over IPv6 with a
///                fragment header between (RFC 8200, 4.5). The datagram's one checksum is made.
class Segmenter {
 public:
  Segmenter(const Packet& original, uint32_t offloads) noexcept;

  /// Why the packet can not be segmented at all: the headers are not what the GSO type says, reach
  /// beyond the head, or contradict the packet's length; or gso_size is 0.
  [[nodiscard]] std::optional<DropReason> error() const noexcept { return error_; }

  /// Segments not emitted yet; 1 when there is an error: the packet itself.
  [[nodiscard]] size_t remaining() const noexcept;
  [[nodiscard]] bool done() const noexcept { return !error_ && next_ == count_; }

  /// Appends segments to `out` until it is full or all are made. Returns no_packets when the pool
  /// is empty; may be called again then.
  [[nodiscard]] std::optional<DropReason> emit(Burst& out) noexcept;

 private:
  [[nodiscard]] std::optional<DropReason> check() noexcept;
  [[nodiscard]] bool prepare_fragments(const net::ParsedHeaders& headers) noexcept;
  [[nodiscard]] uint16_t original_pseudo_sum() const noexcept;
  [[nodiscard]] uint32_t header_size() const noexcept { return header_len_ + inserted_; }
  [[nodiscard]] uint16_t checksum_field() const noexcept;
  void append_payload(Packet& segment, uint32_t done, uint32_t len) noexcept;
  void write_ip(Packet& segment, uint32_t len) const noexcept;
  void write_transport(Packet& segment, uint32_t len) const noexcept;
  void write_fragment(Packet& fragment, uint32_t len) const noexcept;
  void write_fragment4(Packet& fragment, uint32_t len) const noexcept;
  void write_fragment6(Packet& fragment, uint32_t len) const noexcept;
  [[nodiscard]] PacketMeta meta_of_segment() const noexcept;

  const Packet& original_;
  uint32_t offloads_;
  std::optional<DropReason> error_;
  bool is_v6_ = false;
  bool is_tcp_ = false;
  uint16_t l3_ = 0;
  uint16_t l4_ = 0;
  uint16_t header_len_ = 0;   ///< of the original: what each segment repeats
  uint16_t pseudo_sum_ = 0;   ///< of the original's length, as it stands in the checksum field
  uint32_t payload_len_ = 0;  ///< of the original: all behind header_len_
  uint32_t count_ = 0;        ///< segments in all
  uint32_t next_ = 0;         ///< the segment to be made next
  // UFO only.
  uint16_t inserted_ = 0;        ///< bytes of the fragment header behind header_len_
  uint16_t next_header_at_ = 0;  ///< IPv6: the byte that is to name the fragment header
  Be16 datagram_checksum_{};
  uint32_t identification_ = 0;  ///< IPv6

  size_t tail_index_ = 0;  ///< where the next payload byte lies, once past the head
  uint32_t tail_offset_ = 0;
};

}  // namespace pollux::stage
