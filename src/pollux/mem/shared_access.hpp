// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace pollux {

/// Every access to memory that a peer can read or write at the same time goes through one of
/// these functions, and through nothing else. Queue code takes the set as a template parameter,
/// so that a test can put itself between any two accesses and play a hostile or unlucky peer.
///
/// Loads and stores are single-copy atomic for naturally aligned T of at most 8 bytes. Copies are
/// not atomic: whatever was copied must be checked in the copy, never in the original.
struct SharedAccess {
  template <typename T>
  [[nodiscard]] T load(const T* from) const noexcept {
    return __atomic_load_n(from, __ATOMIC_RELAXED);
  }

  /// Pairs with the peer's release store of the same index or flags.
  template <typename T>
  [[nodiscard]] T load_acquire(const T* from) const noexcept {
    return __atomic_load_n(from, __ATOMIC_ACQUIRE);
  }

  template <typename T>
  void store(T* to, T value) const noexcept {
    __atomic_store_n(to, value, __ATOMIC_RELAXED);
  }

  /// Makes everything stored before visible to whoever load-acquires this value.
  template <typename T>
  void store_release(T* to, T value) const noexcept {
    __atomic_store_n(to, value, __ATOMIC_RELEASE);
  }

  /// A private copy of a small structure, of which the compiler may read no byte twice: a plain
  /// copy could become two loads from the original, one for the check and one for the use.
  /// `from` need not be aligned.
  template <typename T>
  [[nodiscard]] T snapshot(const void* from) const noexcept {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(uint64_t) == 0);
    const auto* in = static_cast<const volatile Word*>(from);
    std::array<uint64_t, sizeof(T) / sizeof(uint64_t)> words;
    for (uint64_t& word : words) word = (in++)->value;
    return std::bit_cast<T>(words);
  }

  /// Orders an own store before a following load (publish an index, then read the peer's event
  /// field). On x86 a locked read-modify-write of a private word is cheaper than mfence, and GCC's
  /// ThreadSanitizer understands it; elsewhere it would order nothing else.
  void full_fence() const noexcept {
#if defined(__x86_64__) || defined(__SANITIZE_THREAD__)
    std::atomic<uint32_t> word{0};
    word.fetch_add(1, std::memory_order_seq_cst);
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
  }

  /// Copies `size` bytes out of peer memory into private memory.
  void copy_in(void* to, const void* from_peer, size_t size) const noexcept {
    copy_small_or_any(to, from_peer, size);
    // What is read from the copy from here on may not be read from the original instead.
    std::atomic_signal_fence(std::memory_order_acq_rel);
  }

  /// Copies `size` bytes of private or peer memory into peer memory. Source and target may be the
  /// same peer's and may overlap; then the bytes written are unspecified, nothing else is.
  void copy_out(void* to_peer, const void* from, size_t size) const noexcept {
    copy_small_or_any(to_peer, from, size);
  }

  void prefetch_read(const void* at) const noexcept { __builtin_prefetch(at, 0, 3); }
  /// Asks for a line to be this core's alone, as a store to a line that the peer's core has as well
  /// waits for that core.
  void prefetch_write(const void* at) const noexcept {
#if defined(__x86_64__)
    // For x86-64-v2 the compiler makes a prefetch for reading of it. CPUs without PREFETCHW take it
    // for a NOP.
    __asm__ volatile("prefetchw %0" ::"m"(*static_cast<const char*>(at)));
#else
    __builtin_prefetch(at, 1, 3);
#endif
  }

 private:
  struct [[gnu::packed, gnu::may_alias]] Word {
    uint64_t value;
  };

  /// Heads of packets are 60 to 128 bytes nearly always: two copies of fixed size, which may
  /// overlap, are cheaper than a call. Source and target that overlap give unspecified bytes and
  /// nothing worse.
  static void copy_small_or_any(void* to, const void* from, size_t size) noexcept {
    auto* out = static_cast<std::byte*>(to);
    const auto* in = static_cast<const std::byte*>(from);
    if (size - 32 <= 32) {
      copy_ends<32>(out, in, size);
    } else if (size - 64 <= 64) {
      copy_ends<64>(out, in, size);
    } else {
      std::memmove(out, in, size);
    }
  }

  /// The first and the last `kBlock` bytes, in pieces that stay in registers.
  template <size_t kBlock>
  static void copy_ends(std::byte* out, const std::byte* in, size_t size) noexcept {
    for (size_t at = 0; at < kBlock; at += sizeof(Piece)) copy_piece(out + at, in + at);
    for (size_t at = size - kBlock; at < size; at += sizeof(Piece)) copy_piece(out + at, in + at);
  }

  using Piece [[gnu::vector_size(16)]] = uint64_t;
  static void copy_piece(std::byte* out, const std::byte* in) noexcept {
    Piece piece;
    std::memcpy(&piece, in, sizeof piece);
    std::memcpy(out, &piece, sizeof piece);
  }
};

}  // namespace pollux
