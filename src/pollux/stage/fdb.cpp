// SPDX-License-Identifier: Apache-2.0
#include "pollux/stage/fdb.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <new>
#include <thread>

namespace pollux::stage {
namespace {

constexpr uint32_t kMaxCapacity = 1u << 24;
/// With buckets looked at 8 + 32 at most, 100,000 addresses fit into a table of 131,072.
constexpr unsigned kMoveDepth = 1;

// An entry's value: last seen (32 bits) | generation (16) | port (16).
constexpr uint16_t port_of(uint64_t value) { return static_cast<uint16_t>(value); }
constexpr uint16_t generation_of(uint64_t value) { return static_cast<uint16_t>(value >> 16); }
constexpr uint32_t seen_of(uint64_t value) { return static_cast<uint32_t>(value >> 32); }
constexpr uint64_t make_value(uint16_t port, uint16_t generation, uint32_t seen_s) {
  return uint64_t{seen_s} << 32 | uint64_t{generation} << 16 | port;
}

// A key carries the low four bits of its entry's generation above the address.
constexpr uint64_t tagged(uint64_t key, uint16_t generation) {
  return key | uint64_t{generation & 0xfu} << 60;
}
constexpr bool same_generation(uint64_t key, uint64_t value) {
  return key >> 60 == (generation_of(value) & 0xfu);
}

uint64_t split_mix(uint64_t& state) {
  uint64_t z = state += 0x9e37'79b9'7f4a'7c15;
  z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
  z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
  return z ^ (z >> 31);
}

}  // namespace

void Fdb::Unmap::operator()(Bucket* memory) const noexcept { ::munmap(memory, size); }

Result<std::unique_ptr<Fdb>> Fdb::create(const FdbConfig& config) {
  if (!std::has_single_bit(config.capacity) || config.capacity < kWays ||
      config.capacity > kMaxCapacity) {
    return fail(ErrorCode::kInvalidArgument,
                "the address table's capacity must be a power of two from 4 to 16777216");
  }
  const size_t buckets = config.capacity / kWays;
  const size_t size = buckets * sizeof(Bucket);
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return fail_errno(errno, "no memory for the address table");
  (void)::madvise(mapped, size, MADV_HUGEPAGE);  // fewer TLB misses where the system allows it
  auto* first = static_cast<Bucket*>(mapped);
  for (size_t i = 0; i < buckets; ++i) new (&first[i]) Bucket{};
  return std::unique_ptr<Fdb>(new Fdb(config, Memory(first, Unmap{size}), buckets));
}

Fdb::Fdb(const FdbConfig& config, Memory memory, size_t bucket_count) noexcept
    : buckets_(std::move(memory)),
      mask_(bucket_count - 1),
      bucket_count_(bucket_count),
      max_age_s_(config.max_age_s) {
  uint64_t state = config.seed;
  secret_[0] = split_mix(state);
  secret_[1] = split_mix(state) | 1;
}

Fdb::~Fdb() = default;

// Readers --------------------------------------------------------------------------------------

/// Which ways hold a key, a bit each. Without branches: which way it is can not be guessed.
unsigned Fdb::match(const Bucket& bucket, uint64_t key) noexcept {
  unsigned ways = 0;
  for (size_t way = 0; way < kWays; ++way) {
    const uint64_t tagged_key = bucket.keys[way].load(std::memory_order_acquire);
    ways |= unsigned{((tagged_key ^ key) & kKeyBits) == 0} << way;
  }
  return ways;
}

/// Reads key, value, key. The acquire loads pair with the release stores in `write` and `remove`:
/// whoever sees a value of a new generation also sees that the old key is gone.
bool Fdb::find_in(Bucket& bucket, uint64_t key, Found& found) noexcept {
  for (unsigned ways = match(bucket, key); ways != 0; ways &= ways - 1) {
    const auto way = static_cast<size_t>(std::countr_zero(ways));
    const uint64_t value = bucket.values[way].load(std::memory_order_acquire);
    const uint64_t tagged_key = bucket.keys[way].load(std::memory_order_relaxed);
    if ((tagged_key & kKeyBits) != key || !same_generation(tagged_key, value)) continue;
    found = {value, {&bucket, way}};
    return true;
  }
  return false;
}

Fdb::Found Fdb::find(uint64_t key, uint64_t hash) const noexcept {
  Found found;
  if (find_in(buckets_[first_bucket(hash)], key, found)) return found;
  find_in(buckets_[second_bucket(hash)], key, found);
  return found;
}

uint16_t Fdb::lookup(uint64_t mac, uint16_t vlan) const noexcept {
  const uint64_t key = key_of(mac, vlan);
  if (key == 0) return kNoPort;
  const Found found = find(key, hash(key));
  return found.slot.bucket != nullptr ? port_of(found.value) : kNoPort;
}

/// Calls `hit(i, found)` for those of `macs` that are in their first bucket, in order, and then
/// `late(i, key, hash)` for the others, whose second bucket is on its way meanwhile. Address 0 gets
/// no call.
template <typename Hit, typename Late>
void Fdb::find_each(std::span<const uint64_t> macs, uint16_t vlan, Hit&& hit,
                    Late&& late) const noexcept {
  for (size_t begin = 0; begin < macs.size(); begin += kTogether) {
    const size_t end = std::min(begin + kTogether, macs.size());
    std::array<uint64_t, kTogether> hashes;
    for (size_t i = begin; i < end; ++i) {
      hashes[i - begin] = hash(key_of(macs[i], vlan));
      __builtin_prefetch(&buckets_[first_bucket(hashes[i - begin])], 0, 3);
    }
    std::array<size_t, kTogether> missed;
    size_t missing = 0;
    for (size_t i = begin; i < end; ++i) {
      const uint64_t key = key_of(macs[i], vlan);
      if (key == 0) [[unlikely]]
        continue;
      Found found;
      if (find_in(buckets_[first_bucket(hashes[i - begin])], key, found)) [[likely]] {
        hit(i, found);
        continue;
      }
      __builtin_prefetch(&buckets_[second_bucket(hashes[i - begin])], 0, 3);
      missed[missing++] = i;
    }
    for (size_t m = 0; m < missing; ++m) {
      late(missed[m], key_of(macs[missed[m]], vlan), hashes[missed[m] - begin]);
    }
  }
}

void Fdb::lookup(std::span<const uint64_t> macs, uint16_t vlan, uint16_t* ports) const noexcept {
  std::fill_n(ports, macs.size(), kNoPort);
  find_each(
      macs, vlan, [&](size_t i, const Found& found) { ports[i] = port_of(found.value); },
      [&](size_t i, uint64_t key, uint64_t hash) {
        Found found;
        if (find_in(buckets_[second_bucket(hash)], key, found)) ports[i] = port_of(found.value);
      });
}

// Workers that write -----------------------------------------------------------------------------

Learned Fdb::learn(uint64_t mac, uint16_t vlan, uint16_t port, uint32_t now_s) noexcept {
  const uint64_t key = key_of(mac, vlan);
  if (key == 0) return Learned::kKnown;  // nobody's address; also the mark of a free entry
  const uint64_t h = hash(key);
  const Found found = find(key, h);
  if (found.slot.bucket == nullptr) return insert(key, h, port, now_s);
  return refresh(found, port, now_s);
}

void Fdb::learn(std::span<const uint64_t> macs, uint16_t vlan, uint16_t port,
                uint32_t now_s) noexcept {
  find_each(
      macs, vlan, [&](size_t, const Found& found) { refresh(found, port, now_s); },
      [&](size_t, uint64_t key, uint64_t hash) {
        Found found;
        if (find_in(buckets_[second_bucket(hash)], key, found)) {
          refresh(found, port, now_s);
        } else {
          insert(key, hash, port, now_s);
        }
      });
}

/// What is to be learned of an address that is known.
Learned Fdb::refresh(Found found, uint16_t port, uint32_t now_s) noexcept {
  if (port_of(found.value) == port && seen_of(found.value) == now_s) [[likely]] {
    return Learned::kKnown;
  }
  // The generation in the value makes this fail if the entry was reused meanwhile. If somebody
  // else only refreshed it, that is as good.
  const uint64_t wanted = make_value(port, generation_of(found.value), now_s);
  const bool moved = port_of(found.value) != port;
  if (!found.slot.bucket->values[found.slot.way].compare_exchange_strong(
          found.value, wanted, std::memory_order_relaxed)) {
    return moved ? Learned::kBusy : Learned::kKnown;
  }
  if (!moved) return Learned::kKnown;
  count(moved_);
  return Learned::kMoved;
}

Learned Fdb::insert(uint64_t key, uint64_t hash, uint16_t port, uint32_t now_s) noexcept {
  if (!try_lock()) return Learned::kBusy;
  Bucket& first = buckets_[first_bucket(hash)];
  Bucket& second = buckets_[second_bucket(hash)];
  Learned result = Learned::kNew;
  Slot slot;
  if (find(key, hash).slot.bucket != nullptr) {
    result = Learned::kBusy;  // another worker has just entered it
  } else if (find_free(first, slot) || find_free(second, slot) ||
             (worth_moving() &&
              (make_room(first, kMoveDepth, slot) || make_room(second, kMoveDepth, slot)))) {
    write(slot, key, port, now_s);
    size_.store(size_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    count(learned_);
  } else {
    write(oldest(first, second), key, port, now_s);
    count(learned_);
    count(evicted_);
    result = Learned::kEvicted;
  }
  unlock();
  return result;
}

bool Fdb::find_free(Bucket& bucket, Slot& out) const noexcept {
  for (size_t way = 0; way < kWays; ++way) {
    if (bucket.keys[way].load(std::memory_order_relaxed) != 0) continue;
    out = {&bucket, way};
    return true;
  }
  return false;
}

/// Frees an entry of a full bucket by moving it to its other bucket; if all of those are full too,
/// room is made there, `depth` levels deep.
bool Fdb::make_room(Bucket& bucket, unsigned depth, Slot& out) noexcept {
  for (const bool push : {false, true}) {
    if (push && depth == 0) return false;
    for (size_t way = 0; way < kWays; ++way) {
      const uint64_t key = bucket.keys[way].load(std::memory_order_relaxed) & kKeyBits;
      const uint64_t h = hash(key);
      Bucket& first = buckets_[first_bucket(h)];
      Bucket& other = &first == &bucket ? buckets_[second_bucket(h)] : first;
      Slot target;
      if (&other == &bucket) continue;
      if (push ? !make_room(other, depth - 1, target) : !find_free(other, target)) continue;
      // Written before it is removed, so that a reader finds one of the two; a time stamp or port
      // that is changed in between is learned again from the next packet.
      const uint64_t value = bucket.values[way].load(std::memory_order_relaxed);
      write(target, key, port_of(value), seen_of(value));
      out = {&bucket, way};
      return true;
    }
  }
  return false;
}

Fdb::Slot Fdb::oldest(Bucket& first, Bucket& second) noexcept {
  Slot victim{&first, 0};
  uint32_t seen = UINT32_MAX;
  for (Bucket* bucket : {&first, &second}) {
    for (size_t way = 0; way < kWays; ++way) {
      const uint32_t last = seen_of(bucket->values[way].load(std::memory_order_relaxed));
      if (last >= seen) continue;
      seen = last;
      victim = {bucket, way};
    }
  }
  return victim;
}

/// Makes an entry, in the place of another perhaps. The lock is held.
void Fdb::write(Slot slot, uint64_t key, uint16_t port, uint32_t seen_s) noexcept {
  std::atomic<uint64_t>& value = slot.bucket->values[slot.way];
  std::atomic<uint64_t>& stored_key = slot.bucket->keys[slot.way];
  const auto generation =
      static_cast<uint16_t>(generation_of(value.load(std::memory_order_relaxed)) + 1);
  stored_key.store(0, std::memory_order_relaxed);
  value.store(make_value(port, generation, seen_s), std::memory_order_release);
  stored_key.store(tagged(key, generation), std::memory_order_release);
}

// Control ----------------------------------------------------------------------------------------

void Fdb::lock() noexcept {
  for (unsigned spins = 0; !try_lock(); ++spins) {
    if (spins > 64) std::this_thread::yield();
  }
}

/// Removes an entry if its value is still `value`. The lock is held.
bool Fdb::remove(Slot slot, uint64_t value) noexcept {
  const auto next = static_cast<uint16_t>(generation_of(value) + 1);
  if (!slot.bucket->values[slot.way].compare_exchange_strong(value, make_value(kNoPort, next, 0),
                                                             std::memory_order_release,
                                                             std::memory_order_relaxed)) {
    return false;
  }
  slot.bucket->keys[slot.way].store(0, std::memory_order_release);
  size_.store(size_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
  return true;
}

/// Takes the lock only for buckets that hold something to remove, and for one at a time.
template <typename Predicate>
size_t Fdb::remove_if(size_t begin, size_t bucket_count, Predicate matches) noexcept {
  size_t removed = 0;
  for (size_t i = 0; i < bucket_count; ++i) {
    Bucket& bucket = buckets_[(begin + i) & mask_];
    for (size_t way = 0; way < kWays; ++way) {
      const auto matching = [&] {
        return bucket.keys[way].load(std::memory_order_relaxed) != 0 &&
               matches(bucket.values[way].load(std::memory_order_relaxed));
      };
      if (!matching()) continue;
      lock();
      if (matching()) {
        const uint64_t value = bucket.values[way].load(std::memory_order_relaxed);
        removed += remove({&bucket, way}, value) ? 1 : 0;
      }
      unlock();
    }
  }
  return removed;
}

size_t Fdb::expire(uint32_t now_s, size_t buckets) noexcept {
  buckets = std::min(buckets, bucket_count_);
  lock();
  const size_t begin = next_expire_;
  next_expire_ = (next_expire_ + buckets) & mask_;
  unlock();
  const size_t removed = remove_if(begin, buckets, [&](uint64_t value) {
    // A worker's clock may be a second ahead of the caller's.
    const auto age = static_cast<int32_t>(now_s - seen_of(value));
    return age > 0 && static_cast<uint32_t>(age) > max_age_s_;
  });
  count(expired_, removed);
  return removed;
}

size_t Fdb::forget_port(uint16_t port) noexcept {
  return remove_if(0, bucket_count_, [&](uint64_t value) { return port_of(value) == port; });
}

size_t Fdb::flush() noexcept {
  return remove_if(0, bucket_count_, [](uint64_t) { return true; });
}

FdbCounters Fdb::counters() const noexcept {
  return {learned_.load(std::memory_order_relaxed), moved_.load(std::memory_order_relaxed),
          evicted_.load(std::memory_order_relaxed), expired_.load(std::memory_order_relaxed)};
}

void Fdb::restore(const std::vector<FdbEntry>& entries, const FdbCounters& counters) noexcept {
  for (const FdbEntry& entry : entries) {
    (void)learn(entry.mac.key(), entry.vlan, entry.port, entry.last_seen_s);
  }
  learned_.store(counters.learned, std::memory_order_relaxed);
  moved_.store(counters.moved, std::memory_order_relaxed);
  evicted_.store(counters.evicted, std::memory_order_relaxed);
  expired_.store(counters.expired, std::memory_order_relaxed);
}

std::vector<FdbEntry> Fdb::snapshot() const {
  std::vector<FdbEntry> entries;
  entries.reserve(size());
  for (size_t i = 0; i < bucket_count_; ++i) {
    for (size_t way = 0; way < kWays; ++way) {
      const uint64_t key = buckets_[i].keys[way].load(std::memory_order_acquire);
      const uint64_t value = buckets_[i].values[way].load(std::memory_order_acquire);
      if (key == 0 || !same_generation(key, value)) continue;
      entries.push_back({net::MacAddress::from_key(key & net::MacAddress::kKeyMask),
                         static_cast<uint16_t>(key >> 48 & 0xfff), port_of(value), seen_of(value)});
    }
  }
  return entries;
}

}  // namespace pollux::stage
