// SPDX-License-Identifier: Apache-2.0
// bench_limit: what the machine allows for a switch's work; see README.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "bench/limit/copies.hpp"
#include "pollux/base/pin.hpp"
#include "pollux/base/tsc.hpp"
#include "pollux/mem/shared_region.hpp"

namespace pollux::bench {
namespace {

using std::chrono::duration;
using std::chrono::steady_clock;

constexpr uint32_t kRing = 1024;
constexpr uint32_t kBurst = 32;
constexpr uint32_t kInFlight = 256;
constexpr size_t kHeadroom = 64;

struct Options {
  std::vector<int> cpus{0, 1};
  std::vector<uint32_t> sizes{64, 512, 1518, 9000};
  double seconds = 0.3;
  bool json = false;
};

// ---- a cache line to and fro

/// Cycles for a line from one core to the other and back, the best of some runs.
double round_trip(const Options& options) {
  constexpr int kTrips = 20000;
  struct alignas(128) Line {
    std::atomic<uint32_t> value{0};
  };
  Line line;
  std::thread other([&] {
    (void)pin_this_thread(options.cpus[1]);
    for (uint32_t trip = 0; trip < 10 * kTrips; ++trip) {
      while (line.value.load(std::memory_order_acquire) != 2 * trip + 1) cpu_relax();
      line.value.store(2 * trip + 2, std::memory_order_release);
    }
  });
  double best = 1e9;
  for (uint32_t run = 0, trip = 0; run < 10; ++run) {
    const uint64_t begin = read_tsc();
    for (int i = 0; i < kTrips; ++i, ++trip) {
      line.value.store(2 * trip + 1, std::memory_order_release);
      while (line.value.load(std::memory_order_acquire) != 2 * trip + 2) cpu_relax();
    }
    best = std::min(best, static_cast<double>(read_tsc() - begin) / kTrips);
  }
  other.join();
  return best;
}

// ---- the two-port loop, stripped

struct Desc {
  std::byte* data;
  uint64_t len;
};

/// One direction of one port: the guest puts descriptors, the switch hands them back in order.
struct Ring {
  std::array<Desc, kRing> desc;
  alignas(128) std::atomic<uint32_t> avail{0};
  alignas(128) std::atomic<uint32_t> used{0};
};

struct Port {
  Ring tx;
  Ring rx;
};

/// The loop of bench_loop without virtio: no net headers, no flags, no checks. What is left is
/// indices, descriptors and one copy of each frame, a burst at a time.
class StrippedLoop {
 public:
  StrippedLoop(const Options& options, uint32_t size, CopyVariant variant, std::byte* memory)
      : options_(options), size_(size), variant_(variant), memory_(memory) {
    stride_ = (size + kHeadroom + 127) / 128 * 128;
  }

  static size_t bytes(uint32_t size) { return size_t{4 * kRing} * (size + kHeadroom + 128); }

  /// Packets a second, both directions.
  double run() {
    std::thread guest([this] {
      (void)pin_this_thread(options_.cpus[1]);
      be_guest();
    });
    std::thread timer([this] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      const uint64_t before = done_.load();
      const auto begin = steady_clock::now();
      std::this_thread::sleep_for(duration<double>(options_.seconds));
      rate_ = static_cast<double>(done_.load() - before) /
              duration<double>(steady_clock::now() - begin).count();
      stop_.store(true);
    });
    be_switch();
    guest.join();
    timer.join();
    return rate_;
  }

 private:
  [[nodiscard]] bool stopped() const { return stop_.load(std::memory_order_relaxed); }

  void be_switch() {
    std::array<uint32_t, 2> taken{};
    std::array<uint32_t, 2> given{};
    while (!stopped()) {
      for (size_t from = 0; from < 2; ++from) {
        Ring& in = ports_[from].tx;
        Ring& out = ports_[1 - from].rx;
        const uint32_t there = in.avail.load(std::memory_order_acquire) - taken[from];
        const uint32_t room = out.avail.load(std::memory_order_acquire) - given[from];
        const uint32_t count = std::min({there, room, kBurst});
        if (count == 0) continue;
        std::array<CopyJob, kBurst> jobs;
        for (uint32_t i = 0; i < count; ++i) {
          const Desc& source = in.desc[(taken[from] + i) % kRing];
          Desc& target = out.desc[(given[from] + i) % kRing];
          jobs[i] = {target.data, source.data, source.len};
          target.len = source.len;
        }
        copy_all(variant_, {jobs.data(), count});
        taken[from] += count;
        given[from] += count;
        in.used.store(taken[from], std::memory_order_release);
        out.used.store(given[from], std::memory_order_release);
      }
    }
  }

  void be_guest() {
    std::vector<std::byte*> free;
    for (uint32_t i = 0; i < 4 * kRing; ++i)
      free.push_back(memory_ + size_t{i} * stride_ + kHeadroom);
    std::array<uint32_t, 2> reclaimed{};
    std::array<uint32_t, 2> received{};
    const auto send = [&](size_t port, std::byte* data) {
      Ring& tx = ports_[port].tx;
      const uint32_t at = tx.avail.load(std::memory_order_relaxed);
      data[0] = std::byte{1};  // as a driver writes its net header
      tx.desc[at % kRing] = {data, size_};
      tx.avail.store(at + 1, std::memory_order_release);
    };
    const auto post = [&](size_t port, uint32_t count) {
      Ring& rx = ports_[port].rx;
      const uint32_t at = rx.avail.load(std::memory_order_relaxed);
      for (uint32_t i = 0; i < count; ++i) {
        rx.desc[(at + i) % kRing] = {free.back(), size_};
        free.pop_back();
      }
      rx.avail.store(at + count, std::memory_order_release);
    };
    for (size_t port = 0; port < 2; ++port) {
      post(port, kRing);
      for (uint32_t i = 0; i < kInFlight; ++i) {
        send(port, free.back());
        free.pop_back();
      }
    }
    while (!stopped()) {
      for (size_t port = 0; port < 2; ++port) {
        Ring& tx = ports_[port].tx;
        const uint32_t used = tx.used.load(std::memory_order_acquire);
        for (; reclaimed[port] != used; ++reclaimed[port]) {
          free.push_back(tx.desc[reclaimed[port] % kRing].data);
        }
        Ring& rx = ports_[port].rx;
        const uint32_t count =
            std::min(rx.used.load(std::memory_order_acquire) - received[port], kBurst);
        for (uint32_t i = 0; i < count; ++i) {
          send(1 - port, rx.desc[(received[port] + i) % kRing].data);
        }
        received[port] += count;
        if (count != 0) post(port, count);
        done_.fetch_add(count, std::memory_order_relaxed);
      }
    }
  }

  const Options& options_;
  uint32_t size_;
  CopyVariant variant_;
  std::byte* memory_;
  size_t stride_;
  std::array<Port, 2> ports_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> done_{0};
  double rate_ = 0;
};

// ---- all of it

int measure(const Options& options) {
  for (const int cpu : {options.cpus[1], options.cpus[0]}) {  // the second as a trial
    if (const auto pinned = pin_this_thread(cpu); !pinned) {
      fmt::print(stderr, "bench_limit: {}\n", pinned.error().what);
      return 2;
    }
  }
  const double trip = round_trip(options);
  nlohmann::json told{{"round_trip_cycles", trip}, {"sizes", nlohmann::json::array()}};
  if (!options.json) {
    fmt::print("a cache line from CPU {} to CPU {} and back: {:.0f} cycles\n", options.cpus[0],
               options.cpus[1], trip);
    fmt::print("one copy a frame, {} in flight each way, Mpps\n{:>6}", kInFlight, "bytes");
    for (const CopyVariant& variant : copy_variants()) fmt::print("  {:>20}", variant.name);
    fmt::print("\n");
  }
  for (const uint32_t size : options.sizes) {
    auto memory = SharedRegion::create("limit", StrippedLoop::bytes(size));
    if (!memory) {
      fmt::print(stderr, "bench_limit: {}\n", memory.error().what);
      return 1;
    }
    nlohmann::json row{{"size", size}};
    if (!options.json) fmt::print("{:>6}", size);
    for (const CopyVariant& variant : copy_variants()) {
      auto loop = std::make_unique<StrippedLoop>(options, size, variant, memory->data());
      const double rate = loop->run();
      row["mpps"][variant.name] = rate / 1e6;
      if (!options.json) {
        fmt::print("  {:>20.2f}", rate / 1e6);
        (void)std::fflush(stdout);
      }
    }
    if (!options.json) fmt::print("\n");
    told["sizes"].push_back(row);
  }
  if (options.json) fmt::print("{}\n", told.dump(1));
  return 0;
}

}  // namespace
}  // namespace pollux::bench

int main(int argc, char** argv) {
  pollux::bench::Options options;
  CLI::App app(
      "What this machine allows for a switch's work between two cores: the way of a cache\n"
      "line, and frames that are copied once, without virtio, by several ways to copy.");
  app.add_option("--cpus", options.cpus, "The switch's and the guest's")
      ->delimiter(',')
      ->expected(2)
      ->capture_default_str();
  app.add_option("--sizes", options.sizes, "Bytes of a frame")
      ->delimiter(',')
      ->check(CLI::Range(16, 65536))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "For each figure")->capture_default_str();
  app.add_flag("--json", options.json, "JSON instead of a table");
  CLI11_PARSE(app, argc, argv);
  return pollux::bench::measure(options);
}
