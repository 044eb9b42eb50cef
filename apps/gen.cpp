// SPDX-License-Identifier: Apache-2.0
// `pollux gen`: sends frames to a port; with --sink it also receives and checks them.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "apps/command.hpp"
#include "apps/traffic/checker.hpp"
#include "apps/traffic/flow.hpp"
#include "apps/traffic/report.hpp"
#include "apps/traffic/runtime.hpp"
#include "apps/traffic/source.hpp"
#include "pollux/port/spec.hpp"

namespace pollux::apps {
namespace {

constexpr auto kName = "gen";
constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kSecond = 1'000'000'000;
/// After that long without a frame, what is on its way counts as lost.
constexpr uint64_t kGivenUp = 500 * kMillisecond;

struct Options {
  std::string port;
  std::string sink;
  std::string sizes = "64";
  std::string rate = "max";
  std::string src = "02:00:0a:00:00:01";
  std::string dst = "02:00:0b:00:00:01";
  std::string capture;
  uint32_t flows = 1;
  uint32_t burst = 32;
  std::optional<uint64_t> count;
  double time = 0;
  uint64_t window = 256;
  uint64_t seed = 1;
  uint16_t stream = 0;
  double patience = 10;
  bool quiet = false;
  bool json = false;
};

struct Plan {
  PatternConfig pattern;
  Sender::Limits limits;
  uint64_t nanoseconds = ~uint64_t{0};
};

std::unexpected<Error> wrong(std::string what) {
  return fail(ErrorCode::kInvalidArgument, std::move(what));
}

Result<double> parse_rate(const std::string& text) {
  if (text == "max") return 0.0;
  if (text.empty()) return wrong("--rate wants packets a second such as 500k, or max");
  // Rates go by powers of 1000.
  std::string digits = text;
  double factor = 1;
  const size_t suffix = std::string_view("kmg").find(static_cast<char>(text.back() | 0x20));
  if (suffix != std::string_view::npos) {
    for (size_t i = 0; i <= suffix; ++i) factor *= 1000;
    digits.pop_back();
  }
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  if (digits.empty() || *end != '\0' || !(value > 0) || value > 1e9) {
    return wrong(
        fmt::format("--rate {}: wants packets a second such as 500k or 1.5m, or max", text));
  }
  return value * factor;
}

Result<Plan> make_plan(const Options& o) {
  Plan plan;
  auto mix = SizeMix::parse(o.sizes);
  if (!mix) return forward(mix);
  auto rate = parse_rate(o.rate);
  if (!rate) return forward(rate);
  const auto src = net::MacAddress::from_text(o.src);
  const auto dst = net::MacAddress::from_text(o.dst);
  if (!src || !dst) {
    return wrong(fmt::format("--{} {}: wants a MAC address such as 02:00:00:00:00:01",
                             src ? "dst" : "src", src ? o.dst : o.src));
  }
  plan.pattern = {std::move(*mix), o.flows, src->bytes(), dst->bytes(), o.stream, o.seed};
  if (plan.pattern.sends_to_itself()) {
    return wrong(fmt::format("--dst {} is the source of one of {} flows from {} on: choose another",
                             o.dst, o.flows, o.src));
  }
  plan.limits = {o.count, *rate, o.burst};
  if (o.time > 0) plan.nanoseconds = static_cast<uint64_t>(o.time * 1e9);
  return plan;
}

/// One run: the loop that drives both ports.
class Generator {
 public:
  Generator(Runtime& runtime, const Options& options, const Plan& plan, const Source& source,
            const CaptureFrames* capture, DrivenPort& from, DrivenPort* to)
      : runtime_(runtime),
        options_(options),
        plan_(plan),
        from_(from),
        to_(to),
        sender_(runtime.cache(), from.tx[0], source, plan.limits),
        checker_(plan.pattern.seed) {
    if (capture != nullptr && to != nullptr) compared_.emplace(*capture);
  }

  void run();
  [[nodiscard]] TrafficReport report(const CaptureFrames* capture) const;

 private:
  void wait_for_path();
  size_t turn(uint64_t now);
  [[nodiscard]] bool over(uint64_t now) const;
  void look_after(uint64_t now);
  [[nodiscard]] LiveLine::Totals totals() const;
  [[nodiscard]] uint64_t room() const;
  [[nodiscard]] uint64_t lost() const;
  [[nodiscard]] uint64_t arrived() const {
    return compared_ ? arrived_ : checker_.results().frames;
  }

  Runtime& runtime_;
  const Options& options_;
  const Plan& plan_;
  DrivenPort& from_;
  DrivenPort* to_;
  Sender sender_;
  Checker checker_;
  std::optional<CaptureChecker> compared_;
  uint64_t arrived_ = 0;  // with a capture: everything that came
  uint64_t arrived_bytes_ = 0;
  uint64_t written_off_ = 0;   // of the window: frames that will not come any more
  uint64_t bytes_before_ = 0;  // sent before the test began
  uint64_t start_ = 0;
  uint64_t last_progress_ = 0;  // when a frame was last sent or received
  uint64_t last_served_ = 0;
  uint64_t last_announced_ = 0;
  bool sending_ = true;
  std::optional<LiveLine> live_;
};

/// Frames that may still be sent before one has to arrive.
uint64_t Generator::room() const {
  if (!sending_) return 0;
  if (to_ == nullptr || options_.window == 0) return Burst::kCapacity;
  const uint64_t on_its_way = sender_.made() - std::min(sender_.made(), arrived() + written_off_);
  return options_.window - std::min(options_.window, on_its_way);
}

size_t Generator::turn(uint64_t now) {
  const TurnQuiescence::Turn busy(runtime_.quiescence());
  const size_t sent = sender_.turn(now, room());
  size_t received = 0;
  if (to_ != nullptr) {
    const uint64_t arrival = runtime_.now();
    received = receive_turn(runtime_.cache(), *to_, [&](const Packet& packet) {
      if (is_announcement(packet)) return;  // late, from before the test
      if (compared_) {
        ++arrived_;
        arrived_bytes_ += packet.size();
        compared_->take(packet);
      } else {
        checker_.take(packet, arrival);
      }
    });
  }
  // What others send to the generating port is not looked at, but must not fill its ring.
  if (to_ != &from_) (void)receive_turn(runtime_.cache(), from_, [](const Packet&) {});
  sender_.flush();
  if (sent + received != 0) last_progress_ = now;
  return sent + received;
}

/// What was written off may come yet, late: it is no reason to stop waiting.
bool Generator::over(uint64_t now) const {
  if (sending_) return false;
  if (to_ == nullptr) return true;
  return arrived() >= sender_.sent() || now - last_progress_ > kGivenUp;
}

/// What need not be done every turn.
void Generator::look_after(uint64_t now) {
  // After a signal, too, what is on its way is waited for.
  if (runtime_.interrupted() || sender_.done() || now - start_ > plan_.nanoseconds) {
    sending_ = false;
  }
  if (sending_ && room() == 0 && now - last_progress_ > kGivenUp) {
    written_off_ = sender_.sent() - std::min(sender_.sent(), arrived());
    last_progress_ = now;
  }
  if (now - last_served_ > kMillisecond) {
    runtime_.serve();
    last_served_ = now;
  }
  if (to_ != nullptr && !compared_ && now - last_announced_ > kSecond && !to_->tx.empty()) {
    announce(runtime_.cache(), to_->tx[0], plan_.pattern.dst);
    last_announced_ = now;
  }
  if (live_ && live_->due(now)) live_->print(now, totals(), true, to_ != nullptr);
}

/// Waits until a frame gets through, for a while. A device that has just agreed to its queues may
/// not look at them yet, and what it is sent before is lost without anybody's fault.
void Generator::wait_for_path() {
  const uint64_t end = runtime_.now() + kGivenUp;
  uint64_t next_knock = 0;
  uint64_t quiet_since = 0;  // 0: nothing has come yet
  for (uint64_t now = runtime_.now(); now < end && !runtime_.interrupted(); now = runtime_.now()) {
    {
      const TurnQuiescence::Turn busy(runtime_.quiescence());
      if (quiet_since == 0 && now >= next_knock) {
        announce(runtime_.cache(), from_.tx[0], plan_.pattern.src);
        next_knock = now + 10 * kMillisecond;
      }
      if (receive_turn(runtime_.cache(), *to_, [](const Packet&) {}) != 0) quiet_since = now;
      if (to_ != &from_) (void)receive_turn(runtime_.cache(), from_, [](const Packet&) {});
    }
    // What else was sent may still be on its way, and is not to be taken for part of the test.
    if (quiet_since != 0 && now - quiet_since > 10 * kMillisecond) return;
    runtime_.serve();
    std::this_thread::yield();  // whoever is to do something may need this CPU
  }
}

void Generator::run() {
  if (to_ != nullptr) wait_for_path();
  for (const TxQueue& queue : from_.tx) bytes_before_ += queue.counters->bytes.value();
  start_ = last_progress_ = runtime_.now();
  if (!options_.quiet) live_.emplace(start_);
  unsigned idle = 0;
  for (unsigned turns = 0;; ++turns) {
    const uint64_t now = runtime_.now();
    const bool busy = turn(now) != 0;
    idle = busy ? 0 : idle + 1;
    if (turns % 64 == 0 || idle > 64) {
      look_after(now);
      if (over(now)) break;
    }
    // Whoever is to do something next may need this CPU.
    if (idle > 256) std::this_thread::yield();
  }
}

uint64_t Generator::lost() const {
  const uint64_t sent = sender_.sent();
  const uint64_t good = compared_ ? compared_->equal() + compared_->corrupt()
                                  : checker_.results().unique + checker_.results().corrupt;
  return sent - std::min(sent, good);
}

LiveLine::Totals Generator::totals() const {
  const CheckResults& r = checker_.results();
  LiveLine::Totals t;
  t.sent = sender_.sent();
  for (const TxQueue& queue : from_.tx) t.sent_bytes += queue.counters->bytes.value();
  t.sent_bytes -= bytes_before_;
  t.received = arrived();
  t.received_bytes = compared_ ? arrived_bytes_ : r.bytes;
  t.lost = written_off_;
  t.bad = compared_ ? compared_->corrupt() : r.corrupt + r.duplicates;
  return t;
}

TrafficReport Generator::report(const CaptureFrames* capture) const {
  const CheckResults& r = checker_.results();
  const LiveLine::Totals t = totals();
  TrafficReport report;
  report.seconds = static_cast<double>(last_progress_ - start_) / 1e9;
  report.sent = t.sent;
  report.sent_bytes = t.sent_bytes;
  if (to_ != nullptr) {
    report.received = t.received;
    report.received_bytes = t.received_bytes;
    report.lost = lost();
    report.reordered = r.reordered;
    report.duplicates = r.duplicates;
    report.corrupt = compared_ ? compared_->corrupt() : r.corrupt;
    report.foreign = r.foreign;
    report.latency = checker_.latency();
    report.window = options_.window;
    if (compared_) report.capture_frames = capture->count();
  }
  return report;
}

Result<TrafficReport> generate(const Options& o) {
  auto plan = make_plan(o);
  if (!plan) return forward(plan);
  std::optional<CaptureFrames> capture;
  if (!o.capture.empty()) {
    auto loaded = CaptureFrames::load(o.capture);
    if (!loaded) return forward(loaded);
    capture = std::move(*loaded);
    // Once through the file, unless something else is said.
    if (!o.count && o.time == 0) plan->limits.count = capture->count();
  }
  const PatternSource pattern(plan->pattern);
  const Source& source = capture ? static_cast<const Source&>(*capture) : pattern;

  auto runtime = Runtime::create(stderr_log(), HugePages::kTry);
  if (!runtime) return forward(runtime);
  auto from = (*runtime)->open("gen", o.port);
  if (!from) return forward(from);
  if ((*from)->tx.empty())
    return wrong(fmt::format("--port {}: nothing can be sent there", o.port));
  DrivenPort* to = nullptr;
  if (!o.sink.empty()) {
    auto opened = (*runtime)->open("sink", o.sink);
    if (!opened) return forward(opened);
    to = *opened;
    if (to->rx.empty()) return wrong(fmt::format("--sink {}: nothing comes from there", o.sink));
  }
  const auto patience = Nanos(static_cast<int64_t>(o.patience * 1e9));
  if (Status linked = (*runtime)->wait_for_links(patience); !linked) return forward(linked);

  Generator generator(**runtime, o, *plan, source, capture ? &*capture : nullptr, **from, to);
  if (to != nullptr && !to->tx.empty()) announce((*runtime)->cache(), to->tx[0], plan->pattern.dst);
  generator.run();
  (*runtime)->stop();
  TrafficReport report = generator.report(capture ? &*capture : nullptr);
  report.ports = (*runtime)->port_stats();
  return report;
}

int run_gen(const Options& o) {
  auto report = generate(o);
  if (!report) return complain(kName, report.error());
  fmt::print("{}", o.json ? to_json(*report) + "\n" : to_text(*report));
  std::fflush(stdout);
  return report->good() ? 0 : kFailed;
}

}  // namespace

void setup_gen(CLI::App& app, int& status) {
  const auto o = std::make_shared<Options>();
  app.description(
      "Sends UDP frames with sequence numbers, time stamps and checkable content to a port, or "
      "the\n"
      "frames of a capture file. With --sink it drives a second port in the same thread, checks\n"
      "everything that comes out there, and keeps a bounded number of frames on their way, so "
      "that\n"
      "none need be dropped. Sizes are without FCS: 60 bytes is the smallest frame.");
  app.add_option("--port", o->port, "port to send to")->type_name("SPEC")->required();
  app.add_option("--sink", o->sink, "port to receive and check at")->type_name("SPEC");
  app.add_option("--size", o->sizes, "bytes of a frame, or a mix like 64:7,570:4,1518:1 (64)")
      ->type_name("SIZES");
  app.add_option("--rate", o->rate, "packets a second, like 500k, or max (max)")->type_name("PPS");
  app.add_option("--flows", o->flows, "source MACs, source IPs and port pairs in turn (1)")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  app.add_option("--count", o->count, "frames to send, then end")->type_name("N");
  app.add_option("--time", o->time, "seconds to send, then end")
      ->check(CLI::Range(0.0, 1e7))
      ->type_name("SECONDS");
  app.add_option("--src", o->src, "source MAC of the first flow (02:00:0a:00:00:01)")
      ->type_name("MAC");
  app.add_option("--dst", o->dst, "destination MAC (02:00:0b:00:00:01)")->type_name("MAC");
  app.add_option("--pcap", o->capture, "send this file's frames, once unless --count or --time")
      ->type_name("FILE");
  app.add_option("--window", o->window,
                 "with --sink: most frames on their way; 0: no limit, loss allowed (256)")
      ->type_name("N");
  app.add_option("--burst", o->burst, "frames sent at a time, 1 to 64 (32)")
      ->check(CLI::Range(1, 64))
      ->type_name("N");
  app.add_option("--stream", o->stream, "number that tells this generator from others (0)")
      ->type_name("N");
  app.add_option("--seed", o->seed, "what contents are made from; the sink wants the same (1)")
      ->type_name("N");
  app.add_option("--wait", o->patience, "seconds to wait for the ports' peers (10)")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("SECONDS");
  app.add_flag("--quiet", o->quiet, "no line a second on standard error");
  app.add_flag("--json", o->json, "the report as one JSON object");
  app.footer(port_spec_help());
  app.callback([o, &status] { status = run_gen(*o); });
}

}  // namespace pollux::apps
