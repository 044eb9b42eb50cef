// SPDX-License-Identifier: Apache-2.0
#include "pollux/mem/sigbus_guard.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <mutex>

namespace pollux {
namespace {

// 64 ports with 509 memory slots each.
constexpr size_t kSlots = 32768;

// The handler reads slots without a lock: `base` is stored last and cleared first, and a range is
// unmapped only after its slot is cleared, so a matching slot is always whole.
struct Slot {
  std::atomic<uintptr_t> base{0};
  std::atomic<size_t> size{0};
  std::atomic<std::atomic<bool>*> faulted{nullptr};
  std::atomic<bool> taken{false};
};

struct Guard {
  std::array<Slot, kSlots> slots;
  std::atomic<size_t> high_water{0};
  struct sigaction previous{};
  uintptr_t page_mask = 0;
  std::once_flag installed;
};

Guard& guard() {
  static Guard instance;
  return instance;
}

void fall_back(int signal, siginfo_t* info, void* context) {
  const struct sigaction& previous = guard().previous;
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
    previous.sa_sigaction(signal, info, context);
    return;
  }
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
    return;
  }
  ::signal(signal, SIG_DFL);  // returning repeats the access, which then ends the process
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  Guard& g = guard();
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const size_t count = g.high_water.load(std::memory_order_acquire);
  for (size_t i = 0; i < count; ++i) {
    Slot& slot = g.slots[i];
    const uintptr_t base = slot.base.load(std::memory_order_acquire);
    const size_t size = slot.size.load(std::memory_order_relaxed);
    if (base == 0 || address < base || address - base >= size) continue;
    // The whole range at once: on huge pages a single small page could not be replaced.
    if (!map_zeros(reinterpret_cast<void*>(base), size)) break;
    slot.faulted.load(std::memory_order_relaxed)->store(true, std::memory_order_relaxed);
    return;
  }
  fall_back(signal, info, context);
}

void install() {
  struct sigaction action{};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &guard().previous);
}

}  // namespace

int sigbus_guard(void* base, size_t size, std::atomic<bool>* faulted) {
  Guard& g = guard();
  std::call_once(g.installed, install);
  for (size_t i = 0; i < kSlots; ++i) {
    Slot& slot = g.slots[i];
    bool expected = false;
    if (!slot.taken.compare_exchange_strong(expected, true)) continue;
    slot.size.store(size, std::memory_order_relaxed);
    slot.faulted.store(faulted, std::memory_order_relaxed);
    slot.base.store(reinterpret_cast<uintptr_t>(base), std::memory_order_release);
    size_t seen = g.high_water.load(std::memory_order_relaxed);
    while (seen < i + 1 && !g.high_water.compare_exchange_weak(seen, i + 1)) {
    }
    return static_cast<int>(i);
  }
  return -1;
}

void sigbus_unguard(int slot) {
  if (slot < 0) return;
  Slot& s = guard().slots[static_cast<size_t>(slot)];
  s.base.store(0, std::memory_order_release);
  s.taken.store(false, std::memory_order_release);
}

// Not mmap(), which POSIX does not promise to signal handlers, and which ThreadSanitizer takes for
// this thread's write to the whole range.
bool map_zeros(void* base, size_t size) noexcept {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  return ::syscall(SYS_mmap, base, size, PROT_READ | PROT_WRITE, kFlags, -1, 0) != -1;
}

}  // namespace pollux
