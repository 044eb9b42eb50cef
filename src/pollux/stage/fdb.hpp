// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/net/ethernet.hpp"

namespace pollux::stage {

struct FdbConfig {
  /// Most addresses that are remembered; a power of two, 4 to 2^24. 16 bytes each.
  uint32_t capacity = 131072;
  /// Seconds after which an address that sent nothing is forgotten. IEEE 802.1Q: 300.
  uint32_t max_age_s = 300;
  /// From a random source: keeps senders from choosing addresses that collide.
  uint64_t seed = 0;
};

enum class Learned : uint8_t {
  kKnown,    ///< nothing changed (the time stamp may have)
  kMoved,    ///< known, but behind another port until now
  kNew,      ///< entered
  kEvicted,  ///< entered in the place of the oldest of its neighbours
  kBusy,     ///< not entered: somebody else was writing; the next packet will do
};

struct FdbEntry {
  net::MacAddress mac;
  uint16_t vlan = 0;
  uint16_t port = 0;
  uint32_t last_seen_s = 0;
};

/// Totals since the table was made.
struct FdbCounters {
  uint64_t learned = 0;
  uint64_t moved = 0;
  uint64_t evicted = 0;
  uint64_t expired = 0;
};

/// The forwarding data base: which port an address was last heard on.
///
/// Bounded: buckets of one cache line with four entries; an address may live in either of two
/// buckets, which a seeded hash names. When both are full an entry is moved to its other bucket,
/// and if none can be, the oldest of the eight makes place.
///
/// Bursts of addresses are looked at in stages, all first buckets before all second ones, so that
/// the cache lines of a table larger than the cache come together and not one after the other.
///
/// Any number of workers call `lookup` and `learn` at once. Neither waits, ever: lookups are
/// plain loads, an entry that changes port or time is changed by one compare-and-swap, and a new
/// address is left for its next packet when somebody else is writing. The other functions are for
/// control threads and may run beside the workers.
///
/// An entry is two words, written and read separately. Both carry the entry's generation, which
/// changes whenever an entry is reused, so that a reader never takes one address's port for
/// another's.
class Fdb {
 public:
  static constexpr uint16_t kNoPort = 0xffff;

  [[nodiscard]] static Result<std::unique_ptr<Fdb>> create(const FdbConfig& config);
  ~Fdb();
  Fdb(const Fdb&) = delete;
  Fdb& operator=(const Fdb&) = delete;

  /// The port of an address, or kNoPort. `mac` is a MacAddress::key(), `vlan` 0 to 4095.
  [[nodiscard]] uint16_t lookup(uint64_t mac, uint16_t vlan) const noexcept;

  /// Remembers that `mac` was heard on `port` (not kNoPort) at `now_s`, in seconds of any clock
  /// that does not go back. Writes to shared cache lines only when something changed, at most
  /// once a second for a time stamp.
  Learned learn(uint64_t mac, uint16_t vlan, uint16_t port, uint32_t now_s) noexcept;

  /// `lookup` of each of `macs`; as many ports.
  void lookup(std::span<const uint64_t> macs, uint16_t vlan, uint16_t* ports) const noexcept;

  /// `learn` of each of `macs`.
  void learn(std::span<const uint64_t> macs, uint16_t vlan, uint16_t port, uint32_t now_s) noexcept;

  /// Asks for the cache line that `lookup` and `learn` will look at first.
  void prefetch(uint64_t mac, uint16_t vlan) const noexcept {
    __builtin_prefetch(&buckets_[first_bucket(hash(key_of(mac, vlan)))], 0, 3);
  }

  /// Forgets what is too old in the next `buckets` buckets, going round the table from call to
  /// call; returns how many. The default visits the whole of a default table in eight calls.
  size_t expire(uint32_t now_s, size_t buckets = 4096) noexcept;

  /// Forgets every address behind `port`; returns how many. The port must already be out of the
  /// workers' sight, or they learn it anew.
  size_t forget_port(uint16_t port) noexcept;

  /// Forgets everything; returns how much that was.
  size_t flush() noexcept;

  [[nodiscard]] size_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  [[nodiscard]] size_t capacity() const noexcept { return bucket_count_ * kWays; }
  [[nodiscard]] uint32_t max_age_s() const noexcept { return max_age_s_; }
  [[nodiscard]] FdbCounters counters() const noexcept;

  /// Takes over what another table of the same kind held and had counted; counts nothing itself.
  void restore(const std::vector<FdbEntry>& entries, const FdbCounters& counters) noexcept;

  /// A copy of all entries, in no order. What changes meanwhile may be in it or not.
  [[nodiscard]] std::vector<FdbEntry> snapshot() const;

 private:
  static constexpr size_t kWays = 4;

  /// key: generation (4 bits) | VLAN (12) | MAC (48); 0 is free: no one sends from address 0.
  /// value: last seen (32 bits) | generation (16) | port (16).
  struct alignas(64) Bucket {
    std::array<std::atomic<uint64_t>, kWays> keys;
    std::array<std::atomic<uint64_t>, kWays> values;
  };
  static_assert(sizeof(Bucket) == 64);

  struct Slot {
    Bucket* bucket = nullptr;
    size_t way = 0;
  };
  struct Found {
    uint64_t value = 0;
    Slot slot;  ///< bucket null: not found
  };
  struct Unmap {
    size_t size;
    void operator()(Bucket* memory) const noexcept;
  };
  using Memory = std::unique_ptr<Bucket[], Unmap>;

  Fdb(const FdbConfig& config, Memory memory, size_t bucket_count) noexcept;

  static constexpr uint64_t kKeyBits = (uint64_t{1} << 60) - 1;
  [[nodiscard]] static uint64_t key_of(uint64_t mac, uint16_t vlan) noexcept {
    return (mac & net::MacAddress::kKeyMask) | (uint64_t{vlan} & 0xfff) << 48;
  }
  [[nodiscard]] uint64_t hash(uint64_t key) const noexcept {
    // A folded multiplication by secrets: cheap, and without them collisions can not be planned.
    const auto product = static_cast<unsigned __int128>(key ^ secret_[0]) * secret_[1];
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  [[nodiscard]] size_t first_bucket(uint64_t hash) const noexcept { return hash & mask_; }
  [[nodiscard]] size_t second_bucket(uint64_t hash) const noexcept { return (hash >> 32) & mask_; }

  /// Addresses that are looked at together.
  static constexpr size_t kTogether = 32;

  [[nodiscard]] static unsigned match(const Bucket& bucket, uint64_t key) noexcept;
  static bool find_in(Bucket& bucket, uint64_t key, Found& found) noexcept;
  template <typename Hit, typename Late>
  void find_each(std::span<const uint64_t> macs, uint16_t vlan, Hit&& hit,
                 Late&& late) const noexcept;
  [[nodiscard]] Found find(uint64_t key, uint64_t hash) const noexcept;
  Learned refresh(Found found, uint16_t port, uint32_t now_s) noexcept;
  Learned insert(uint64_t key, uint64_t hash, uint16_t port, uint32_t now_s) noexcept;
  [[nodiscard]] bool find_free(Bucket& bucket, Slot& out) const noexcept;
  /// A table fuller than this is under attack or too small, and moving would mostly fail.
  [[nodiscard]] bool worth_moving() const noexcept { return size() <= capacity() / 16 * 15; }
  [[nodiscard]] bool make_room(Bucket& bucket, unsigned depth, Slot& out) noexcept;
  [[nodiscard]] static Slot oldest(Bucket& first, Bucket& second) noexcept;
  static void write(Slot slot, uint64_t key, uint16_t port, uint32_t seen_s) noexcept;
  bool remove(Slot slot, uint64_t value) noexcept;
  template <typename Predicate>
  size_t remove_if(size_t begin, size_t count, Predicate matches) noexcept;

  [[nodiscard]] bool try_lock() noexcept {
    return !locked_.exchange(true, std::memory_order_acquire);
  }
  void lock() noexcept;
  void unlock() noexcept { locked_.store(false, std::memory_order_release); }
  static void count(std::atomic<uint64_t>& counter, uint64_t n = 1) noexcept {
    counter.fetch_add(n, std::memory_order_relaxed);
  }

  // Read by every packet.
  Memory buckets_;
  size_t mask_;
  std::array<uint64_t, 2> secret_;
  size_t bucket_count_;
  uint32_t max_age_s_;

  // Written when an address comes or goes.
  alignas(64) std::atomic<bool> locked_{false};
  std::atomic<size_t> size_{0};
  size_t next_expire_ = 0;  ///< with the lock held
  std::atomic<uint64_t> learned_{0};
  std::atomic<uint64_t> moved_{0};
  std::atomic<uint64_t> evicted_{0};
  std::atomic<uint64_t> expired_{0};
};

}  // namespace pollux::stage
