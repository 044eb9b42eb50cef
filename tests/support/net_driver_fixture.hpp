// SPDX-License-Identifier: Apache-2.0
// A pool, a queue laid out in memory, and a device's hands on it, for tests of driver queues.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pollux/packet/burst.hpp"
#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/virtio/net_driver_rx.hpp"
#include "pollux/virtio/net_driver_tx.hpp"
#include "tests/support/packed_model.hpp"

// A namespace of its own: other helpers have functions of the same names for other types.
namespace pollux::test::inline driver {

using Bytes = std::vector<uint8_t>;

/// `size` bytes that tell their place: a second one with another seed differs.
inline Bytes pattern(size_t size, unsigned seed = 1) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 256 + seed * 31);
  return bytes;
}

inline Bytes bytes_of(const Packet& packet) {
  Bytes bytes(packet.size());
  packet.copy_to(bytes.data(), 0, bytes.size());
  return bytes;
}

/// What a queue is made as; driver queues behave the same on all.
struct RingKind {
  bool packed = false;
  bool in_order = false;

  friend std::string to_string(RingKind kind) {
    return std::string(kind.packed ? "Packed" : "Split") + (kind.in_order ? "InOrder" : "");
  }
  friend void PrintTo(RingKind kind, std::ostream* out) { *out << to_string(kind); }
};
inline constexpr RingKind kRingKinds[]{{false, false}, {false, true}, {true, false}, {true, true}};

/// One queue and its device, which reads and writes the ring by the plain fields.
class NetQueue {
 public:
  static constexpr uint64_t kAddr = 0x7000000000;

  NetQueue(Pool& pool, uint32_t size, RingKind kind = {})
      : kind_(kind),
        memory_(std::max(ring::split_bytes(size), ring::packed_bytes(size)) + 64),
        split_(ring::place_split(aligned(), size)),
        packed_(ring::place_packed(aligned(), size)),
        window{pool.region().data(), pool.region().size(), kAddr} {}

  /// Lends indirect tables; before `make`.
  void set_tables(const ring::IndirectTables& tables) { tables_ = tables; }

  /// A NetDriverRx or NetDriverTx on this queue, given to `use` once it is made.
  template <template <typename> typename Queue, typename Use>
  auto make(Pool& pool, const virtio::NetDriverConfig& config, Use&& use) {
    const ring::DriverRingOptions options{.in_order = kind_.in_order, .indirect = tables_};
    if (kind_.packed) {
      ring::PackedDriverRing<> ring(packed_, options);
      model_ = PackedModel(packed_, static_cast<const std::byte*>(tables_.memory), tables_.addr);
      return use(std::make_unique<Queue<ring::PackedDriverRing<>>>(std::move(ring), pool, config));
    }
    ring::SplitDriverRing<> ring(split_, options);
    return use(std::make_unique<Queue<ring::SplitDriverRing<>>>(std::move(ring), pool, config));
  }

  [[nodiscard]] std::byte* at(uint64_t addr) const {
    EXPECT_GE(addr, kAddr);
    EXPECT_LT(addr - kAddr, window.size);
    return const_cast<std::byte*>(window.base) + (addr - kAddr);
  }

  /// Address and flags (without those of the packed format) of a descriptor of the ring itself.
  [[nodiscard]] uint64_t desc_addr(size_t index) const {
    return kind_.packed ? packed_.desc[index].addr : split_.desc[index].addr;
  }
  [[nodiscard]] uint16_t desc_flags(size_t index) const {
    return kind_.packed ? packed_.desc[index].flags & 7 : split_.desc[index].flags;
  }

  [[nodiscard]] uint16_t available() const {
    if (kind_.packed) return model_.count_available();
    return static_cast<uint16_t>(split_.avail->idx - next_);
  }
  /// The id of the next available chain.
  uint16_t take() {
    EXPECT_NE(available(), 0);
    if (!kind_.packed) return split_.avail->ring[next_++ % split_.size];
    PackedModel::Chain chain = model_.take();
    const uint16_t id = chain.id;
    taken_[id] = std::move(chain);
    return id;
  }
  /// The descriptors of a chain that was taken; those of an indirect table when it is one.
  [[nodiscard]] std::vector<spec::virtq_desc> chain(uint16_t id) const {
    std::vector<spec::virtq_desc> all;
    if (kind_.packed) {
      for (const auto& desc : taken_.at(id).parts) {
        all.push_back({desc.addr, desc.len, static_cast<uint16_t>(desc.flags & 7), 0});
      }
      return all;
    }
    const spec::virtq_desc* table = split_.desc;
    uint16_t index = id;
    while (true) {
      const spec::virtq_desc desc = table[index];
      if ((desc.flags & spec::VIRTQ_DESC_F_INDIRECT) != 0) {
        table = reinterpret_cast<const spec::virtq_desc*>(
            static_cast<const std::byte*>(tables_.memory) + (desc.addr - tables_.addr));
        index = 0;
        continue;
      }
      all.push_back(desc);
      if ((desc.flags & spec::VIRTQ_DESC_F_NEXT) == 0) return all;
      index = desc.next;
    }
  }
  /// All bytes of a chain.
  [[nodiscard]] Bytes read(const std::vector<spec::virtq_desc>& chain) const {
    Bytes all;
    for (const auto& desc : chain) {
      const auto* from = reinterpret_cast<const uint8_t*>(at(desc.addr));
      all.insert(all.end(), from, from + desc.len);
    }
    return all;
  }
  /// Returns a chain; any number passes for an id.
  void use(uint16_t id, uint32_t len) {
    if (kind_.packed) {
      const auto taken = taken_.find(id);
      return model_.use(id, len, taken == taken_.end() ? uint16_t{1} : taken->second.length);
    }
    split_.used->ring[split_.used->idx % split_.size] = {id, len};
    split_.used->idx = static_cast<uint16_t>(split_.used->idx + 1);
  }
  /// Writes `bytes` into the next available chains, `piece` bytes each at most, as a device with
  /// mergeable buffers does; returns how many chains it took.
  size_t deliver(const Bytes& bytes, size_t piece = ~size_t{0}) {
    size_t done = 0, chains = 0;
    do {
      const uint16_t id = take();
      size_t here = 0;
      for (const auto& desc : chain(id)) {
        const size_t n = std::min({size_t{desc.len}, bytes.size() - done, piece - here});
        std::memcpy(at(desc.addr), bytes.data() + done, n);
        done += n;
        here += n;
      }
      use(id, static_cast<uint32_t>(here));
      ++chains;
    } while (done < bytes.size());
    return chains;
  }

 private:
  [[nodiscard]] std::byte* aligned() {
    return reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 *
                                        64);
  }

  RingKind kind_;
  std::vector<std::byte> memory_;
  ring::SplitLayout split_;
  ring::PackedLayout packed_;
  ring::IndirectTables tables_;
  uint16_t next_ = 0;                             // split: the next available entry
  PackedModel model_{packed_};                    // packed: both cursors
  std::map<uint16_t, PackedModel::Chain> taken_;  // packed: chains with the device, by id

 public:
  virtio::SharedWindow window;
};

/// A NetDriverRx on a ring of any kind.
class AnyDriverRx {
 public:
  virtual ~AnyDriverRx() = default;
  virtual bool fill(PoolCache& cache) = 0;
  virtual bool poll(Burst& burst, QueueCounters& counters) = 0;
  virtual void stop(PoolCache& cache) = 0;
  [[nodiscard]] virtual ring::RingError error() const = 0;

  static std::unique_ptr<AnyDriverRx> make(NetQueue& queue, Pool& pool,
                                           const virtio::NetDriverConfig& config);
};

/// A NetDriverTx on a ring of any kind.
class AnyDriverTx {
 public:
  virtual ~AnyDriverTx() = default;
  virtual DropReason send(Burst& burst, QueueCounters& counters) = 0;
  virtual bool publish() = 0;
  virtual void reclaim(PoolCache& cache) = 0;
  virtual void stop(PoolCache& cache) = 0;
  [[nodiscard]] virtual ring::RingError error() const = 0;

  static std::unique_ptr<AnyDriverTx> make(NetQueue& queue, Pool& pool,
                                           const virtio::NetDriverConfig& config);
};

template <typename Queue>
class AnyDriverRxOf final : public AnyDriverRx {
 public:
  explicit AnyDriverRxOf(std::unique_ptr<Queue> queue) : queue_(std::move(queue)) {}
  bool fill(PoolCache& cache) override { return queue_->fill(cache); }
  bool poll(Burst& burst, QueueCounters& counters) override {
    return queue_->poll(burst, counters);
  }
  void stop(PoolCache& cache) override { queue_->stop(cache); }
  [[nodiscard]] ring::RingError error() const override { return queue_->ring().error(); }

 private:
  std::unique_ptr<Queue> queue_;
};

template <typename Queue>
class AnyDriverTxOf final : public AnyDriverTx {
 public:
  explicit AnyDriverTxOf(std::unique_ptr<Queue> queue) : queue_(std::move(queue)) {}
  DropReason send(Burst& burst, QueueCounters& counters) override {
    return queue_->send(burst, counters);
  }
  bool publish() override { return queue_->publish(); }
  void reclaim(PoolCache& cache) override { queue_->reclaim(cache); }
  void stop(PoolCache& cache) override { queue_->stop(cache); }
  [[nodiscard]] ring::RingError error() const override { return queue_->ring().error(); }

 private:
  std::unique_ptr<Queue> queue_;
};

inline std::unique_ptr<AnyDriverRx> AnyDriverRx::make(NetQueue& queue, Pool& pool,
                                                      const virtio::NetDriverConfig& config) {
  return queue.make<virtio::NetDriverRx>(
      pool, config, []<typename Q>(std::unique_ptr<Q> made) -> std::unique_ptr<AnyDriverRx> {
        return std::make_unique<AnyDriverRxOf<Q>>(std::move(made));
      });
}
inline std::unique_ptr<AnyDriverTx> AnyDriverTx::make(NetQueue& queue, Pool& pool,
                                                      const virtio::NetDriverConfig& config) {
  return queue.make<virtio::NetDriverTx>(
      pool, config, []<typename Q>(std::unique_ptr<Q> made) -> std::unique_ptr<AnyDriverTx> {
        return std::make_unique<AnyDriverTxOf<Q>>(std::move(made));
      });
}

/// A virtio-net header with num_buffers, little-endian.
inline Bytes net_header(uint16_t num_buffers, uint8_t flags = 0, uint8_t gso_type = 0,
                        uint16_t gso_size = 0, uint16_t csum_start = 0, uint16_t csum_offset = 0) {
  const auto lo = [](uint16_t v) { return static_cast<uint8_t>(v); };
  const auto hi = [](uint16_t v) { return static_cast<uint8_t>(v >> 8); };
  return {flags,
          gso_type,
          0,
          0,
          lo(gso_size),
          hi(gso_size),
          lo(csum_start),
          hi(csum_start),
          lo(csum_offset),
          hi(csum_offset),
          lo(num_buffers),
          hi(num_buffers)};
}

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A pool that must be whole again when the test ends.
class PoolTest : public testing::Test {
 protected:
  explicit PoolTest(PoolConfig config = {
                        .packets = 256, .buffers = 512, .pages = HugePages::kNever}) {
    auto made = Pool::create(config);
    EXPECT_TRUE(made.has_value());
    pool = std::move(*made);
    cache = std::make_unique<PoolCache>(*pool);
  }
  ~PoolTest() override {
    cache.reset();
    EXPECT_EQ(pool->free_packets(), pool->packet_count());
    EXPECT_EQ(pool->free_buffers(), pool->buffer_count());
  }

  /// A packet whose head holds the first `head` bytes and whose owned tail the rest, `piece` bytes
  /// a segment, each `offset` bytes into its buffer.
  Packet* make_packet(const Bytes& bytes, size_t head, size_t piece = 2048, size_t offset = 0) {
    Packet* packet = cache->allocate();
    head = std::min(head, bytes.size());
    packet->set_head_size(static_cast<uint32_t>(head));
    std::memcpy(packet->head(), bytes.data(), head);
    for (size_t at = head; at < bytes.size(); at += piece) {
      BufferIndex buffer;
      EXPECT_TRUE(cache->allocate_buffer(buffer));
      const size_t n = std::min(piece, bytes.size() - at);
      std::byte* data = pool->buffer_data(buffer) + offset;
      std::memcpy(data, bytes.data() + at, n);
      packet->append({data, static_cast<uint32_t>(n), buffer});
    }
    return packet;
  }

  std::unique_ptr<Pool> pool;
  std::unique_ptr<PoolCache> cache;
  QueueCounters counters;
};

}  // namespace pollux::test::inline driver
