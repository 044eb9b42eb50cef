// SPDX-License-Identifier: Apache-2.0
// How far the inputs of session_fuzz.cpp get (POLLUX_FUZZ_STATS=1).
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>

#include "pollux/base/drop_reason.hpp"
#include "pollux/base/queue_counters.hpp"
#include "tests/support/lying_terms.hpp"

namespace pollux::liar {

struct Reached {
  uint64_t inputs = 0;
  uint64_t with_packets = 0;  // inputs that got a packet through
  uint64_t turns = 0;
  uint64_t busy_turns = 0;   // that brought packets
  uint64_t from_guests = 0;  // packets taken from rings
  uint64_t to_guests = 0;    // packets put into rings
  uint64_t packed = 0;       // packets through packed rings, either way
  uint64_t behind_iommu = 0;
  uint64_t steered = 0;   // packets while a table or a flow chose among receiveqs
  uint64_t noted = 0;     // packets while an in-flight region was there
  uint64_t segments = 0;  // cut out of larger packets
  uint64_t joined = 0;    // segments that were joined
  uint64_t joints = 0;    // into so many packets
  std::array<uint64_t, kDropReasonCount> drops{};
  uint64_t obeyed = 0;  // commands of control queues
  uint64_t refused = 0;
  uint64_t unanswered = 0;
  uint64_t interrupts = 0;  // of turns, by control that can not wait for their end
  uint64_t at_rest = 0;     // rounds of turns after which in-flight regions said so
  uint64_t reconnects = 0;
  Counts front_ends;

  void add(const Counts& counts) {
    front_ends.messages += counts.messages;
    front_ends.mappings += counts.mappings;
    front_ends.restarts += counts.restarts;
    front_ends.logged += counts.logged;
    front_ends.ended += counts.ended;
    front_ends.resumed += counts.resumed;
    front_ends.regions += counts.regions;
    front_ends.handed_over += counts.handed_over;
  }

  /// What became of a queue's packets.
  uint64_t add(const QueueCounters& counters, bool sends) {
    uint64_t sum = 0;
    for (size_t r = 0; r < kDropReasonCount; ++r) {
      const uint64_t count = counters.drops.value(static_cast<DropReason>(r));
      drops[r] += count;
      sum += count;
    }
    return sum + (sends ? counters.packets.value() : 0);
  }

  void print() const {
    line("inputs", inputs);
    line("... with packets", with_packets);
    line("turns", turns);
    line("... with packets", busy_turns);
    line("... interrupted", interrupts);
    line("packets from guests", from_guests);
    line("packets to guests", to_guests);
    line("... in packed rings", packed);
    line("... behind IOMMUs", behind_iommu);
    line("... with receiveqs to choose", steered);
    line("... with in-flight regions", noted);
    line("segments", segments);
    line("segments joined", joined);
    line("... into packets", joints);
    for (size_t r = 0; r < kDropReasonCount; ++r) {
      if (drops[r] != 0) line(("dropped: " + std::string(kDropReasons[r].name)).c_str(), drops[r]);
    }
    line("commands obeyed", obeyed);
    line("commands refused", refused);
    line("commands without an answer", unanswered);
    line("messages", front_ends.messages);
    line("IOTLB updates", front_ends.mappings);
    line("rounds logged", front_ends.logged);
    line("in-flight regions", front_ends.regions);
    line("... found at rest", at_rest);
    line("rings restarted", front_ends.restarts);
    line("rings resumed", front_ends.resumed);
    line("sessions handed over", front_ends.handed_over);
    line("reconnects", reconnects);
    line("connections ended", front_ends.ended);
  }

 private:
  static void line(const char* name, uint64_t value) {
    (void)std::fprintf(stderr, "reached: %-32s %llu\n", name,
                       static_cast<unsigned long long>(value));
  }
};

inline Reached& reached() {
  static Reached all;
  return all;
}

}  // namespace pollux::liar
