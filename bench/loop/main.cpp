// SPDX-License-Identifier: Apache-2.0
// bench_loop: two front ends that send each other's frames through a switch, for ever; see README.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/traffic/pattern.hpp"
#include "bench/loop/attachment.hpp"
#include "bench/loop/loop.hpp"
#include "pollux/base/pin.hpp"
#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"
#include "pollux/virtio/feature_names.hpp"

namespace pollux::bench {
namespace {

using std::chrono::duration;
using std::chrono::steady_clock;

struct Options {
  std::vector<std::string> sockets;
  std::string sizes = "64";
  bool packed = false;
  bool touch = false;
  bool json = false;
  bool prompted = false;
  uint32_t ring_size = 1024;
  uint32_t in_flight = 256;
  uint32_t macs = 1;
  double seconds = 3;
  double warm = 1;
  int cpu = -1;
};

/// The rate and what came of the frames.
struct Measured {
  double seconds = 0;
  std::array<double, 2> frames{};
  double bytes = 0;
  double busy = 0;  ///< ticks
  double hertz = 0;
  Accounting accounting;
};

struct Plan {
  Traffic traffic;
  AttachOptions attach;
  uint32_t buffer_size = 0;
};

/// Payload of a buffer: a common frame fits into one, as guests have it; a large segment takes
/// pages, as Linux posts them.
uint32_t buffer_for(uint32_t largest) {
  if (largest <= 2048) return 2048;
  return largest <= kMaxPlainFrame ? kMaxPlainFrame : 4096 - spec::kNetHdrSize;
}

Result<Plan> make_plan(const Options& options) {
  auto mix = apps::SizeMix::parse(options.sizes);
  if (!mix) return forward(mix);
  const auto [smallest, largest] = std::ranges::minmax(mix->sizes);
  if (smallest < kMinFrame || largest > kMaxFrame) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("--sizes: from {} to {} bytes", kMinFrame, kMaxFrame));
  }
  Plan plan;
  plan.buffer_size = buffer_for(largest);
  const uint32_t pieces = largest / plan.buffer_size + 1;
  plan.attach = {.packed = options.packed,
                 .large = largest > kMaxPlainFrame,
                 .ring_size = options.ring_size,
                 .chain = pieces};
  plan.traffic = {mix->sizes, options.in_flight, options.macs, options.touch};
  // All frames of one direction fit into the other side's receiveq, with some room.
  const uint32_t most = options.ring_size * 3 / 4 / pieces;
  plan.traffic.in_flight = std::clamp(plan.traffic.in_flight, 1U, std::max(most, 1U));
  return plan;
}

template <typename Ring>
Ring make_ring(const Attachment& attachment, uint16_t index, bool packed) {
  const ring::DriverRingOptions options{.in_order = packed,
                                        .indirect = attachment.memory().tables(index)};
  if constexpr (std::is_same_v<Ring, ring::PackedDriverRing<>>) {
    return Ring(attachment.memory().packed_layout(index), options);
  } else {
    return Ring(attachment.memory().split_layout(index), options);
  }
}

/// Runs turns for so long.
template <typename Ring>
double run_for(Loop<Ring>& loop, double seconds) {
  const auto begin = steady_clock::now();
  double passed = 0;
  while (passed < seconds && !loop.broken()) {
    for (int turn = 0; turn < 1000; ++turn) loop.turn();
    passed = duration<double>(steady_clock::now() - begin).count();
  }
  return passed;
}

template <typename Ring>
Measured measure(Loop<Ring>& loop, const Options& options) {
  loop.begin();
  run_for(loop, options.warm);
  const Counted before = loop.counted();
  const uint64_t ticks = read_tsc();
  Measured result;
  result.seconds = run_for(loop, options.seconds);
  const Counted& after = loop.counted();
  const auto gained = [](uint64_t from, uint64_t to) { return static_cast<double>(to - from); };
  result.hertz = gained(ticks, read_tsc()) / result.seconds;
  for (size_t i = 0; i < 2; ++i) result.frames[i] = gained(before.frames[i], after.frames[i]);
  result.bytes = gained(before.bytes, after.bytes);
  result.busy = gained(before.busy, after.busy);
  auto last = steady_clock::now();
  result.accounting = loop.collect([&](bool came) {
    if (came) last = steady_clock::now();
    return steady_clock::now() - last > std::chrono::milliseconds(200);
  });
  return result;
}

void print(const Options& options, const Plan& plan, uint64_t features, const Measured& r) {
  const double rate = (r.frames[0] + r.frames[1]) / r.seconds;
  const double cycles = r.busy / std::max(r.frames[0] + r.frames[1], 1.0);
  if (options.json) {
    fmt::print("{}\n",
               nlohmann::json{{"pps", rate},
                              {"pps_each", {r.frames[0] / r.seconds, r.frames[1] / r.seconds}},
                              {"bits_per_second", r.bytes * 8 / r.seconds},
                              {"generator_cycles", cycles},
                              {"tsc_hz", r.hertz},
                              {"in_flight", plan.traffic.in_flight},
                              {"ring_size", options.ring_size},
                              {"buffer_size", plan.buffer_size},
                              {"features", virtio::net_feature_names(features)},
                              {"whole", r.accounting.whole},
                              {"lost", r.accounting.lost},
                              {"corrupt", r.accounting.corrupt}}
                   .dump());
    return;
  }
  fmt::print("{:.3f} Mpps, {:.2f} Gbit/s; {:.0f} cycles a packet here; {} in flight each way\n",
             rate / 1e6, r.bytes * 8 / r.seconds / 1e9, cycles, plan.traffic.in_flight);
  fmt::print("at the end {} frames whole, {} lost, {} corrupt\n", r.accounting.whole,
             r.accounting.lost, r.accounting.corrupt);
  fmt::print("negotiated {}\n", fmt::join(virtio::net_feature_names(features), " "));
}

/// Until a line comes or the input ends.
void await_line() {
  (void)std::fflush(stdout);
  for (int c = 0; c != '\n' && c != EOF;) c = std::getchar();
}

using Attachments = std::vector<std::unique_ptr<Attachment>>;

Status start_and_stop(Attachments& attachments, bool start) {
  for (auto& attachment : attachments) {
    if (auto ok = start ? attachment->start() : attachment->stop(); !ok) return ok;
  }
  return {};
}

template <typename Ring>
Result<bool> run(const Options& options, const Plan& plan, const Pool& pool,
                 Attachments& attachments) {
  Buffers buffers(pool);
  std::vector<std::unique_ptr<Side<Ring>>> sides;
  for (auto& attachment : attachments) {
    sides.push_back(std::make_unique<Side<Ring>>(
        *attachment, buffers, make_ring<Ring>(*attachment, Attachment::kReceiveq, options.packed),
        make_ring<Ring>(*attachment, Attachment::kTransmitq, options.packed)));
  }
  if (auto ok = start_and_stop(attachments, true); !ok) return forward(ok);
  for (auto& side : sides) {
    side->post();
    side->publish();
  }
  if (options.prompted) await_line();
  Loop<Ring> loop(*sides[0], *sides[1], buffers, plan.traffic);
  const Measured result = measure(loop, options);
  if (loop.broken()) return fail(ErrorCode::kProtocol, "the switch broke a ring");
  print(options, plan, attachments[0]->features(), result);
  if (options.prompted) await_line();
  if (auto ok = start_and_stop(attachments, false); !ok) return forward(ok);
  return result.accounting.lost == 0 && result.accounting.corrupt == 0;
}

Result<bool> run(const Options& options) {
  const auto plan = make_plan(options);
  if (!plan) return forward(plan);
  const auto in_rings = static_cast<uint32_t>(2 * options.ring_size * options.sockets.size());
  auto pool = Pool::create(
      {.name = "loop", .packets = 1, .buffers = in_rings + 256, .buffer_size = plan->buffer_size});
  if (!pool) return forward(pool);
  Attachments attachments;
  for (const std::string& path : options.sockets) {
    auto attachment = Attachment::open(path, plan->attach, **pool);
    if (!attachment) return forward(attachment);
    attachments.push_back(std::move(*attachment));
  }
  if (options.packed) return run<ring::PackedDriverRing<>>(options, *plan, **pool, attachments);
  return run<ring::SplitDriverRing<>>(options, *plan, **pool, attachments);
}

}  // namespace
}  // namespace pollux::bench

int main(int argc, char** argv) {
  pollux::bench::Options options;
  CLI::App app(
      "Two vhost-user front ends that send each other's frames through a switch, for ever:\n"
      "what comes in on one goes out on the other, without a copy. Tells the rate, its own\n"
      "cost, and whether every frame is still there and whole at the end.");
  app.add_option("SOCKET", options.sockets,
                 "The switch's sockets: two with traffic, others are attached and idle")
      ->required()
      ->expected(2, 256);
  app.add_option("--sizes", options.sizes,
                 "Frame sizes, also as a mix 64:7,570:4,1518:1; above 9216 TCP segments")
      ->capture_default_str();
  app.add_flag("--packed", options.packed, "Packed rings, used in order; else split ones");
  app.add_flag("--touch", options.touch, "Read and write all of each frame, as a guest would");
  app.add_option("--ring", options.ring_size, "Entries of each ring")
      ->check(CLI::Range(64, 32768))
      ->capture_default_str();
  app.add_option("--in-flight", options.in_flight,
                 "Frames on their way, each direction; fewer when they would not fit")
      ->check(CLI::Range(1, 16384))
      ->capture_default_str();
  app.add_option("--macs", options.macs, "MAC addresses on each side, in turn")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "How long to measure")->capture_default_str();
  app.add_option("--warm", options.warm, "How long to run before that")->capture_default_str();
  app.add_option("--cpu", options.cpu, "The CPU to run on");
  app.add_flag("--json", options.json, "One JSON object instead");
  app.add_flag("--prompted", options.prompted,
               "Wait for a line before the traffic begins, and for one before the ports detach");
  CLI11_PARSE(app, argc, argv);
  if (options.cpu >= 0) {
    if (const auto pinned = pollux::pin_this_thread(options.cpu); !pinned) {
      fmt::print(stderr, "bench_loop: {}\n", pinned.error().what);
      return 2;
    }
  }
  const auto whole = pollux::bench::run(options);
  if (!whole) {
    fmt::print(stderr, "bench_loop: {}\n", whole.error().what);
    return whole.error().code == pollux::ErrorCode::kInvalidArgument ? 2 : 1;
  }
  return *whole ? 0 : 1;
}
