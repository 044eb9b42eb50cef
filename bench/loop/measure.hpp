// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <thread>

#include "bench/loop/interruptions.hpp"
#include "bench/loop/report.hpp"
#include "pollux/base/tsc.hpp"

namespace pollux::bench {

using Seconds = std::chrono::duration<double>;
/// Nothing more is waited for when nothing has come for so long: while frames are missing, since
/// the switch may not have a CPU of its own, and when none is, since one may come twice.
inline constexpr auto kPatience = std::chrono::seconds(2);
inline constexpr auto kSilence = std::chrono::milliseconds(200);
/// From one turn to the next: far more than a turn takes.
inline constexpr Seconds kStall{20e-6};
/// What is measured at a time where others may take the CPUs: shorter than they leave them for.
inline constexpr Seconds kSlice{2e-3};
/// Traffic before each, up to its last frame: then the switch has its CPU, and is awake if this
/// traffic keeps it so.
inline constexpr Seconds kLead{0.5e-3};

/// Turns between two looks at the clock.
inline constexpr int kTurns = 500;

/// Runs turns for so long; how long that was.
template <typename Generator>
double run_for(Generator& generator, double seconds) {
  const auto begin = std::chrono::steady_clock::now();
  double passed = 0;
  while (passed < seconds && !generator.broken()) {
    for (int turn = 0; turn < kTurns; ++turn) generator.turn();
    passed = Seconds(std::chrono::steady_clock::now() - begin).count();
  }
  return passed;
}

/// Says when that is; asked again and again.
class Silence {
 public:
  bool operator()(bool came, bool complete) {
    const auto now = std::chrono::steady_clock::now();
    if (came) {
      last_ = now;
    } else {
      std::this_thread::yield();
    }
    return now - last_ > (complete ? kSilence : kPatience);
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// Ticks a second.
inline double measure_hertz() {
  const auto begin = std::chrono::steady_clock::now();
  const uint64_t ticks = read_tsc();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto gained = static_cast<double>(read_tsc() - ticks);
  return gained / Seconds(std::chrono::steady_clock::now() - begin).count();
}

template <typename Ring>
LoopResult measure(Loop<Ring>& loop, const Options& options) {
  loop.begin();
  run_for(loop, options.warm);
  const Counted before = loop.counted();
  const uint64_t ticks = read_tsc();
  LoopResult result;
  result.seconds = run_for(loop, options.seconds);
  const Counted& after = loop.counted();
  const auto gained = [](uint64_t from, uint64_t to) { return static_cast<double>(to - from); };
  result.hertz = gained(ticks, read_tsc()) / result.seconds;
  for (size_t i = 0; i < 2; ++i) result.frames[i] = gained(before.frames[i], after.frames[i]);
  result.bytes = gained(before.bytes, after.bytes);
  result.busy = gained(before.busy, after.busy);
  result.accounting = loop.collect(Silence());
  return result;
}

/// Takes in what is still on its way.
template <typename Ring>
void finish(Paced<Ring>& paced) {
  const Passage& so_far = paced.passage();
  for (Silence over; !over(paced.drain(), so_far.received == so_far.sent);) {
  }
}

/// The same, and goes on at once when that is all. False when it is not, after some patience.
template <typename Ring>
bool catch_up(Paced<Ring>& paced) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (paced.passage().received != paced.passage().sent) {
    if (!paced.drain() && std::chrono::steady_clock::now() > until) return false;
  }
  return true;
}

/// Measures slice by slice, each up to the last of its frames, and counts those in which nobody
/// else took a CPU.
template <typename Ring>
void run_in_peace(Paced<Ring>& paced, const Options& options, const Interruptions& interruptions,
                  PacedResult& result) {
  const auto until = std::chrono::steady_clock::now() + Seconds(options.seconds);
  while (std::chrono::steady_clock::now() < until && !paced.broken()) {
    const uint64_t before = interruptions.count();
    paced.begin_window();
    run_for(paced, kLead.count());
    if (!catch_up(paced)) return;
    paced.begin_window();
    const double seconds = run_for(paced, kSlice.count());
    if (!catch_up(paced)) return;
    ++result.slices;
    if (interruptions.count() != before) continue;
    ++result.undisturbed;
    result.seconds += seconds;
    result.window.add(paced.window());
  }
}

/// `hertz`: measure_hertz(), by which the loop was made.
template <typename Ring>
Result<PacedResult> measure(Paced<Ring>& paced, double hertz, const Options& options) {
  run_for(paced, options.warm);
  PacedResult result;
  result.hertz = hertz;
  if (options.watched != 0) {
    const auto interruptions = Interruptions::of_process(options.watched);
    if (!interruptions) return forward(interruptions);
    finish(paced);
    run_in_peace(paced, options, *interruptions, result);
    finish(paced);
  } else {
    paced.begin_window();
    result.seconds = run_for(paced, options.seconds);
    finish(paced);
    result.window = paced.window();
  }
  result.passage = paced.passage();
  return result;
}

}  // namespace pollux::bench
