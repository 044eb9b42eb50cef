// SPDX-License-Identifier: Apache-2.0
#include "bench/loop/report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "pollux/virtio/feature_names.hpp"

namespace pollux::bench {
namespace {

using nlohmann::json;

json common(const Options& options, const Plan& plan, uint64_t features) {
  return {{"ring_size", options.ring_size},
          {"buffer_size", plan.buffer_size},
          {"in_flight", plan.traffic.in_flight},
          {"features", virtio::net_feature_names(features)}};
}

void print_features(uint64_t features) {
  fmt::print("negotiated {}\n", fmt::join(virtio::net_feature_names(features), " "));
}

json to_json(const LoopResult& r, double rate, double cycles) {
  return {{"pps", rate},
          {"pps_each", {r.frames[0] / r.seconds, r.frames[1] / r.seconds}},
          {"bits_per_second", r.bytes * 8 / r.seconds},
          {"generator_cycles", cycles},
          {"tsc_hz", r.hertz},
          {"whole", r.accounting.whole},
          {"lost", r.accounting.lost},
          {"corrupt", r.accounting.corrupt}};
}

json to_json(const PacedResult& r) {
  const double seconds = std::max(r.seconds, 1e-9);
  const auto ns = [&](uint64_t ticks) { return static_cast<double>(ticks) / r.hertz * 1e9; };
  const apps::Histogram& latency = r.window.latency;
  return {{"pps", static_cast<double>(r.window.sent) / seconds},
          {"tsc_hz", r.hertz},
          {"sent", r.passage.sent},
          {"received", r.passage.received},
          {"lost", r.lost()},
          {"late", r.passage.late},
          {"repeated", r.passage.repeated},
          {"corrupt", r.passage.corrupt},
          {"latency_ns",
           {{"count", latency.total()},
            {"min", ns(latency.min())},
            {"mean", ns(latency.mean())},
            {"p50", ns(latency.percentile(0.5))},
            {"p99", ns(latency.percentile(0.99))},
            {"p99.9", ns(latency.percentile(0.999))},
            {"max", ns(latency.max())}}},
          {"window_sent", r.window.sent},
          {"held_back", r.window.held_back},
          {"slices", r.slices},
          {"undisturbed_slices", r.undisturbed},
          {"stalls", r.window.stalls},
          {"stalled_share", ns(r.window.stalled) / 1e9 / seconds}};
}

}  // namespace

void print(const Options& options, const Plan& plan, uint64_t features, const LoopResult& r) {
  const double rate = (r.frames[0] + r.frames[1]) / r.seconds;
  const double cycles = r.busy / std::max(r.frames[0] + r.frames[1], 1.0);
  if (options.json) {
    json all = common(options, plan, features);
    all.update(to_json(r, rate, cycles));
    fmt::print("{}\n", all.dump());
    return;
  }
  fmt::print("{:.3f} Mpps, {:.2f} Gbit/s; {:.0f} cycles a packet here; {} in flight each way\n",
             rate / 1e6, r.bytes * 8 / r.seconds / 1e9, cycles, plan.traffic.in_flight);
  fmt::print("at the end {} frames whole, {} lost, {} corrupt\n", r.accounting.whole,
             r.accounting.lost, r.accounting.corrupt);
  print_features(features);
}

void print(const Options& options, const Plan& plan, uint64_t features, const PacedResult& r) {
  if (options.json) {
    json all = common(options, plan, features);
    all.update(to_json(r));
    fmt::print("{}\n", all.dump());
    return;
  }
  const auto us = [&](uint64_t ticks) { return static_cast<double>(ticks) / r.hertz * 1e6; };
  const apps::Histogram& latency = r.window.latency;
  fmt::print("{:.3f} Mpps, both directions; {} frames measured\n",
             static_cast<double>(r.window.sent) / std::max(r.seconds, 1e-9) / 1e6, latency.total());
  fmt::print("latency in us: p50 {:.2f}, p99 {:.2f}, p99.9 {:.2f}, max {:.2f}\n",
             us(latency.percentile(0.5)), us(latency.percentile(0.99)),
             us(latency.percentile(0.999)), us(latency.max()));
  fmt::print("in all {} frames sent, {} received, {} lost, {} late, {} repeated, {} corrupt\n",
             r.passage.sent, r.passage.received, r.lost(), r.passage.late, r.passage.repeated,
             r.passage.corrupt);
  fmt::print(
      "{} had to wait for the switch to be sent; this program stood still {} times, "
      "{:.2f} ms in all\n",
      r.window.held_back, r.window.stalls, us(r.window.stalled) / 1e3);
  if (r.slices != 0) {
    fmt::print("others took no CPU in {} of {} slices, which are those that count\n", r.undisturbed,
               r.slices);
  }
  print_features(features);
}

}  // namespace pollux::bench
