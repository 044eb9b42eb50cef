// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace pollux {

/// Index of a Buffer in its pool; kBorrowed marks bytes that belong to somebody else.
using BufferIndex = uint32_t;
inline constexpr BufferIndex kBorrowed = ~BufferIndex{0};

/// A run of bytes of a packet's tail: inside a pool Buffer, or borrowed.
struct Segment {
  std::byte* data = nullptr;
  uint32_t len = 0;
  BufferIndex buffer = kBorrowed;
};

/// kUdp4 and kUdp6: each segment is a datagram (USO). kUfo4 and kUfo6: each is an IP fragment of
/// one datagram.
enum class GsoType : uint8_t { kNone, kTcp4, kTcp6, kUdp4, kUdp6, kUfo4, kUfo6 };

[[nodiscard]] constexpr bool is_fragmentation(GsoType gso) {
  return gso == GsoType::kUfo4 || gso == GsoType::kUfo6;
}

/// What was found out about a packet and what is asked of whoever sends it on. Offsets count from
/// the packet's first byte; 0 in l3_offset/l4_offset means "not parsed or not present". Offload
/// fields are set from headers that were parsed here, never passed on raw.
struct PacketMeta {
  uint16_t in_port = 0;         ///< PortIndex that the packet came in by
  uint16_t l3_offset = 0;       ///< first byte of the network header
  uint16_t l4_offset = 0;       ///< first byte of the transport header
  uint16_t payload_offset = 0;  ///< first byte after the transport header
  uint16_t csum_start = 0;      ///< with needs_csum: sum from here to the end ...
  uint16_t csum_offset = 0;     ///< ... and store at csum_start + csum_offset
  uint16_t gso_size = 0;        ///< with gso: bytes of each segment: payload, or (UFO) IP payload
  uint16_t ether_type = 0;      ///< after VLAN tags, host order
  uint16_t vlan_tci = 0;        ///< outermost tag as found in the frame; 0 when untagged
  uint8_t ip_proto = 0;
  GsoType gso = GsoType::kNone;
  bool needs_csum : 1 = false;  ///< the transport checksum is still to be filled in
  bool csum_valid : 1 = false;  ///< the sender vouches for the transport checksum
  bool gso_ecn : 1 = false;     ///< CWR is set: only the first segment may keep it
  bool parsed : 1 = false;      ///< the parse stage has filled in the offsets
  uint8_t hash_report = 0;      ///< which `hash`, as VIRTIO_NET_HASH_REPORT_...; 0: a port's own
  uint32_t hash = 0;            ///< flow hash; 0 when not computed
  uint32_t mark = 0;            ///< free for stages
  uint64_t timestamp = 0;       ///< ns since 1970, when a port knows it, else 0
};

/// One packet: a private head and a tail.
///
/// The head lies inside the Packet, in memory that no peer can touch: the first bytes, copied once,
/// so that what was checked can not change afterwards, with head room for tunnels before it. The
/// tail is a list of segments, all *owned* (in Buffers of the pool) or all *borrowed* (still in the
/// memory of the peer or packet that it came from, and good only until the worker's turn ends).
/// A packet that fits into the head has no tail. A borrowed tail of more segments than a packet has
/// room for is *lent* with its list: the list, too, is somebody else's.
///
/// Packets live in a Pool and are handled through a Burst, which returns them. One thread at a
/// time.
class alignas(64) Packet {
 public:
  static constexpr size_t kHeadRoom = 128;      ///< spare bytes before a fresh head
  static constexpr size_t kHeadCapacity = 192;  ///< most bytes of a fresh head
  /// Of a packet that does not fit into the head this much is copied into it: enough for
  /// Ethernet, two VLAN tags, IPv6 with options or IPv4, and TCP with all options.
  static constexpr size_t kHeadCopy = 128;
  static constexpr size_t kMaxSegments = 36;        ///< 64 KiB in buffers of 2 KiB, and some
  static constexpr size_t kMaxLentSegments = 128;   ///< of a tail whose list is lent
  static constexpr size_t kMaxLength = 65535 + 64;  ///< the largest GSO frame with its headers

  PacketMeta meta;

  Packet() = default;
  Packet(const Packet&) = delete;
  Packet& operator=(const Packet&) = delete;

  /// Empties the packet and puts the head back to its place. The tail must not own buffers, nor be
  /// lent.
  void reset() noexcept {
    meta = PacketMeta{};
    head_start_ = kHeadRoom;
    head_len_ = 0;
    segment_count_ = 0;
    tail_len_ = 0;
    kind_ = TailKind::kPlain;
  }

  [[nodiscard]] uint32_t size() const noexcept { return head_len_ + tail_len_; }

  [[nodiscard]] std::byte* head() noexcept { return room_.data() + head_start_; }
  [[nodiscard]] const std::byte* head() const noexcept { return room_.data() + head_start_; }
  [[nodiscard]] uint32_t head_size() const noexcept { return head_len_; }
  [[nodiscard]] std::span<std::byte> head_bytes() noexcept { return {head(), head_len_}; }
  [[nodiscard]] std::span<const std::byte> head_bytes() const noexcept {
    return {head(), head_len_};
  }

  /// Sets the head's length; the bytes are the caller's to fill. At most kHeadCapacity.
  void set_head_size(uint32_t len) noexcept { head_len_ = static_cast<uint16_t>(len); }

  /// Grows the head at the front by `len` bytes, to be filled by the caller. False when the head
  /// room is used up.
  [[nodiscard]] bool prepend(uint32_t len) noexcept {
    if (len > head_start_) return false;
    head_start_ = static_cast<uint16_t>(head_start_ - len);
    head_len_ = static_cast<uint16_t>(head_len_ + len);
    return true;
  }

  /// Cuts `len` bytes off the front of the head. False when the head is shorter.
  [[nodiscard]] bool trim_front(uint32_t len) noexcept {
    if (len > head_len_) return false;
    head_start_ = static_cast<uint16_t>(head_start_ + len);
    head_len_ = static_cast<uint16_t>(head_len_ - len);
    return true;
  }

  [[nodiscard]] uint32_t tail_size() const noexcept { return tail_len_; }
  [[nodiscard]] std::span<const Segment> tail() const noexcept { return {list_, segment_count_}; }
  [[nodiscard]] bool tail_owned() const noexcept { return kind_ == TailKind::kOwned; }
  [[nodiscard]] bool tail_borrowed() const noexcept { return segment_count_ != 0 && !tail_owned(); }
  [[nodiscard]] bool segments_full() const noexcept { return segment_count_ >= kMaxSegments; }
  /// True when there is something to give back before the packet is used anew: buffers or a list.
  [[nodiscard]] bool tail_to_return() const noexcept { return kind_ != TailKind::kPlain; }

  /// Adds a segment at the end. All segments of a packet are of one kind; the caller has checked
  /// segments_full().
  void append(const Segment& segment) noexcept {
    kind_ = segment.buffer != kBorrowed ? TailKind::kOwned : TailKind::kPlain;
    segments_[segment_count_++] = segment;
    tail_len_ += segment.len;
  }

  /// Gives a packet without tail one of more than kMaxSegments (at most kMaxLentSegments) borrowed
  /// segments. `list` is borrowed like the bytes: it must live, unchanged, as long as they do.
  void lend_tail(std::span<const Segment> list) noexcept {
    kind_ = TailKind::kLent;
    list_ = list.data();
    segment_count_ = static_cast<uint16_t>(list.size());
    for (const Segment& segment : list) tail_len_ += segment.len;
  }

  /// Forgets a tail that was lent, and its list.
  void return_tail() noexcept {
    list_ = segments_.data();
    drop_tail();
  }

  /// Forgets the tail, which is not lent, without giving anything back: the caller has taken the
  /// buffers.
  void drop_tail() noexcept {
    segment_count_ = 0;
    tail_len_ = 0;
    kind_ = TailKind::kPlain;
  }

  /// Copies up to `len` bytes from `offset` of the whole packet (head, then tail) to `out`;
  /// returns how many there were.
  size_t copy_to(void* out, size_t offset, size_t len) const noexcept {
    auto* to = static_cast<std::byte*>(out);
    size_t done = 0;
    const auto piece = [&](const std::byte* data, size_t size) {
      if (offset >= size) {
        offset -= size;
        return;
      }
      const size_t n = std::min(size - offset, len - done);
      if (n != 0) std::memcpy(to + done, data + offset, n);
      done += n;
      offset = 0;
    };
    piece(head(), head_len_);
    for (size_t i = 0; i < segment_count_ && done < len; ++i) piece(list_[i].data, list_[i].len);
    return done;
  }

 private:
  /// kPlain: none or borrowed, in the packet's own list.
  enum class TailKind : uint8_t { kPlain, kOwned, kLent };

  uint16_t head_start_ = kHeadRoom;
  uint16_t head_len_ = 0;
  uint16_t segment_count_ = 0;
  TailKind kind_ = TailKind::kPlain;
  uint32_t tail_len_ = 0;
  // Set once and put back by who returns a lent tail, so that nobody else pays for those.
  const Segment* list_ = segments_.data();

  // A fresh head starts a cache line.
  alignas(64) std::array<std::byte, kHeadRoom + kHeadCapacity> room_;
  std::array<Segment, kMaxSegments> segments_;
};

}  // namespace pollux
