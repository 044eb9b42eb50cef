// SPDX-License-Identifier: Apache-2.0
// bench_loop: two front ends that send each other's frames through a switch; see README.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "bench/loop/attachment.hpp"
#include "bench/loop/loop.hpp"
#include "bench/loop/measure.hpp"
#include "bench/loop/paced.hpp"
#include "bench/loop/plan.hpp"
#include "bench/loop/report.hpp"
#include "pollux/base/pin.hpp"
#include "pollux/ring/packed_driver_ring.hpp"
#include "pollux/ring/split_driver_ring.hpp"

namespace pollux::bench {
namespace {

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

/// Both measure and print; true when every frame has come, once and whole.
template <typename Ring>
Result<bool> in_a_loop(const Options& options, const Plan& plan, Side<Ring>& a, Side<Ring>& b,
                       Buffers& buffers) {
  Loop<Ring> loop(a, b, buffers, plan.traffic);
  const LoopResult result = measure(loop, options);
  print(options, plan, a.features(), result);
  return result.good();
}

template <typename Ring>
Result<bool> at_rate(const Options& options, const Plan& plan, Side<Ring>& a, Side<Ring>& b,
                     Buffers& buffers) {
  const double hertz = measure_hertz();
  Paced<Ring> paced(a, b, buffers, plan.traffic, hertz / options.rate,
                    static_cast<uint64_t>(kStall.count() * hertz));
  const auto result = measure(paced, hertz, options);
  if (!result) return forward(result);
  print(options, plan, a.features(), *result);
  return result->good();
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
  for (size_t by = 0; by < 2 && plan.traffic.shared; ++by) {
    sides[by]->send_copy(make_announcement(by, plan.traffic), {});
    sides[by]->publish();
  }
  if (options.prompted) await_line();
  const auto good = options.rate > 0 ? at_rate(options, plan, *sides[0], *sides[1], buffers)
                                     : in_a_loop(options, plan, *sides[0], *sides[1], buffers);
  if (!good) return forward(good);
  if (sides[0]->broken() || sides[1]->broken()) {
    return fail(ErrorCode::kProtocol, "the switch broke a ring");
  }
  if (options.prompted) await_line();
  if (auto ok = start_and_stop(attachments, false); !ok) return forward(ok);
  return *good;
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
      "cost, and whether every frame is still there and whole at the end. With --rate it makes\n"
      "new frames at that rate instead, and tells how long they take and that each has come.");
  app.add_option("SOCKET", options.sockets,
                 "The switch's sockets: two with traffic, others are attached and idle")
      ->required()
      ->expected(2, 256);
  app.add_option("--sizes", options.sizes,
                 "Frame sizes, also as a mix 64:7,570:4,1518:1; above 9216 TCP segments")
      ->capture_default_str();
  app.add_flag("--packed", options.packed, "Packed rings, used in order; else split ones");
  app.add_flag("--touch", options.touch, "Read and write all of each frame, as a guest would");
  app.add_flag(
      "--shared", options.shared,
      "Others send through the same switch: tell it first where our first addresses are, and "
      "pass over frames that are not for us");
  app.add_option("--ring", options.ring_size, "Entries of each ring")
      ->check(CLI::Range(64, 32768))
      ->capture_default_str();
  app.add_option(
         "--in-flight", options.in_flight,
         "Frames on their way (at most, with --rate), each direction; fewer when they would "
         "not fit")
      ->check(CLI::Range(1, 16384))
      ->capture_default_str();
  app.add_option("--macs", options.macs, "MAC addresses on each side, in turn")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--first-mac", options.first_mac,
                 "Number of the first of them: several of this on one switch want different ones")
      ->capture_default_str();
  app.add_option("--flows", options.flows,
                 "Flows of each direction, in turn: other IP addresses and ports, the same MACs")
      ->check(CLI::Range(1U, pollux::bench::kMaxFlows))
      ->capture_default_str();
  app.add_option("--rate", options.rate,
                 "Frames a second, both directions together, each with a time in it: how long do "
                 "they take?")
      ->check(CLI::Range(1.0, 1e9));
  app.add_option(
      "--watch", options.watched,
      "With --rate: the switch's process; counts only slices of 2 ms in which the kernel "
      "let nobody else on this CPU and that of its busiest thread");
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
