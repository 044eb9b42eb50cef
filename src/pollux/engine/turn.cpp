// SPDX-License-Identifier: Apache-2.0
#include "pollux/engine/turn.hpp"

#include <algorithm>

#include "pollux/base/tsc.hpp"
#include "pollux/mem/shared_access.hpp"
#include "pollux/packet/tx_offloads.hpp"
#include "pollux/stage/flood.hpp"
#include "pollux/stage/forward.hpp"
#include "pollux/stage/offload.hpp"
#include "pollux/stage/parse.hpp"

namespace pollux {
namespace {

// How often a receiver that took some of a burst, but not all, is asked again. One that took
// nothing is not asked again: a stuck receiver must not cost the others their time.
constexpr unsigned kRetries = 3;

}  // namespace

bool Turn::run(const Topology& topology, const RxSource& source, uint32_t now_s,
               const RxSource* next) noexcept {
  if (source.queue.idle != nullptr && source.queue.idle(source.queue.self)) {
    empty_turns_.add(1);
    return false;
  }
  const uint64_t start = read_tsc();
  source.queue.poll(source.queue.self, burst_);
  const size_t count = burst_.size();
  if (count != 0) {
    if (next != nullptr && next->queue.prefetch != nullptr) next->queue.prefetch(next->queue.self);
    carry(topology, source, now_s);
  }
  end(source);
  if (count == 0) {
    empty_turns_.add(1);
    return false;
  }
  turns_.add(1);
  packets_.add(count);
  busy_cycles_.add(read_tsc() - start);
  return true;
}

/// The stages, in order.
void Turn::carry(const Topology& topology, const RxSource& source, uint32_t now_s) noexcept {
  for (Packet* packet : burst_.packets()) packet->meta.in_port = source.port;
  stage::parse(burst_);
  addresses_.read(burst_, fdb_, outputs_);
  fdb_.learn(addresses_.sources(), 0, source.port, now_s);
  stage::forward(addresses_, fdb_, source.port, outputs_);
  stage::dispatch(burst_, outputs_, scratch_, [&](stage::Output output, Burst& burst) noexcept {
    send_to(topology, source, output, burst);
  });
}

void Turn::send_to(const Topology& topology, const RxSource& source, stage::Output output,
                   Burst& burst) noexcept {
  if (stage::is_drop(output)) {
    source.queue.counters->drops.add(stage::drop_reason(output), burst.size());
  } else if (output == stage::kFlood) {
    flood(topology, source, burst);
  } else {
    send_to_port(topology, source, output, burst, held_);
  }
}

void Turn::flood(const Topology& topology, const RxSource& source, Burst& burst) noexcept {
  const auto& ports = topology.flood_ports;
  const size_t receivers =
      ports.size() - static_cast<size_t>(std::count(ports.begin(), ports.end(), source.port));
  if (receivers > 1) {
    floods_.add(burst.size());
    flood_copies_.add(burst.size() * receivers);
  }
  stage::flood(
      burst, ports, source.port, clones_, held_,
      [&](uint16_t port, Burst& copies) noexcept {
        send_to_port(topology, source, port, copies, held_clones_);
        held_clones_.clear();
      },
      [&](DropReason reason, size_t count) noexcept {
        source.queue.counters->drops.add(reason, count);
      });
}

/// Sends a burst to one port, in the shape that its receiver agreed to; what does not fit is
/// dropped.
void Turn::send_to_port(const Topology& topology, const RxSource& source, uint16_t port,
                        Burst& burst, Burst& held) noexcept {
  if (port >= topology.outputs.size() || !topology.outputs[port].present) {
    // Learned before the port went away; the table forgets it in a moment.
    source.queue.counters->drops.add(DropReason::receiver_down, burst.size());
    return;
  }
  const TxQueue& queue = topology.outputs[port].by_worker[worker_];
  touch(queue, port);
  const uint32_t offloads =
      queue.offloads == nullptr ? 0 : queue.offloads->load(std::memory_order_relaxed);
  if (const uint32_t types = stage::joinable(offloads, source.queue.large); types != 0)
      [[unlikely]] {
    join_and_finish(queue, offloads, types, burst, held);
    return;
  }
  if (stage::ready_for(burst, offloads)) [[likely]] {
    (void)transmit(queue, burst);
    return;
  }
  finish(queue, offloads, burst, held);
}

/// Joins what the sender handed over in small segments and the receiver takes large.
void Turn::join_and_finish(const TxQueue& queue, uint32_t offloads, uint32_t types, Burst& burst,
                           Burst& held) noexcept {
  const stage::Joiner::Counts joined = joiner_.join(burst, types);
  gro_segments_.add(joined.segments);
  gro_packets_.add(joined.packets);
  finish(queue, offloads, burst, held);
  joiner_.release();
}

/// Finishes what the receiver did not agree to finish itself: checksums, segments.
void Turn::finish(const TxQueue& queue, uint32_t offloads, Burst& burst, Burst& held) noexcept {
  size_t to_cut = 0;
  for (const Packet* packet : burst.packets()) {
    if (packet->meta.gso != GsoType::kNone && !stage::takes_gso(packet->meta, offloads)) ++to_cut;
  }
  const size_t whole = burst.size() - to_cut;
  size_t made = 0;
  stage::finalize(
      burst, offloads, segments_, held,
      [&](Burst& segments) noexcept {
        made += segments.size();
        return transmit(queue, segments);
      },
      [&](DropReason reason, size_t count) noexcept {
        made += count;
        queue.counters->drops.add(reason, count);
      });
  gso_packets_.add(to_cut);
  gso_segments_.add(made - whole);
}

/// Gives a burst to a queue, and drops what it leaves; says why if it left anything.
std::optional<DropReason> Turn::transmit(const TxQueue& queue, Burst& burst) noexcept {
  DropReason reason{};
  for (unsigned attempt = 0; attempt <= kRetries; ++attempt) {
    const size_t before = burst.size();
    reason = queue.send(queue.self, burst);
    if (burst.empty()) return std::nullopt;
    if (burst.size() == before) break;
  }
  queue.counters->drops.add(reason, burst.size());
  burst.clear();
  return reason;
}

void Turn::touch(const TxQueue& queue, uint16_t port) noexcept {
  if (queue.flush == nullptr || touched_in_[port] == turn_) return;
  touched_in_[port] = turn_;
  touched_[touched_count_++] = queue;
}

/// Senders first, receivers after them: if we crash in between, packets are lost with the turn, but
/// none is ever sent twice.
void Turn::end(const RxSource& source) noexcept {
  held_.clear();
  bool shown = show(source.queue, source.queue.complete);
  for (size_t i = 0; i < touched_count_; ++i) shown |= show(touched_[i], touched_[i].flush);
  if (shown) notify(source.queue);
  touched_count_ = 0;
  ++turn_;
}

/// Ends a queue's part in the turn; true when notify() is to be called for it.
template <typename Queue>
bool Turn::show(const Queue& queue, void (*all)(void*) noexcept) noexcept {
  if (queue.show != nullptr) return queue.show(queue.self);
  if (all != nullptr) all(queue.self);
  return false;
}

/// One fence for all that was shown: each waits for the cache lines of all stores before it.
void Turn::notify(const RxQueue& source) noexcept {
  SharedAccess{}.full_fence();
  if (source.notify != nullptr) source.notify(source.self);
  for (size_t i = 0; i < touched_count_; ++i) {
    if (touched_[i].notify != nullptr) touched_[i].notify(touched_[i].self);
  }
}

void Turn::add_stats(const WorkerStats& stats) noexcept {
  turns_.add(stats.turns);
  empty_turns_.add(stats.empty_turns);
  packets_.add(stats.packets);
  busy_cycles_.add(stats.busy_cycles);
  floods_.add(stats.floods);
  flood_copies_.add(stats.flood_copies);
  gso_packets_.add(stats.gso_packets);
  gso_segments_.add(stats.gso_segments);
  gro_segments_.add(stats.gro_segments);
  gro_packets_.add(stats.gro_packets);
}

WorkerStats Turn::stats() const {
  WorkerStats stats;
  stats.turns = turns_.value();
  stats.empty_turns = empty_turns_.value();
  stats.packets = packets_.value();
  stats.busy_cycles = busy_cycles_.value();
  stats.floods = floods_.value();
  stats.flood_copies = flood_copies_.value();
  stats.gso_packets = gso_packets_.value();
  stats.gso_segments = gso_segments_.value();
  stats.gro_segments = gro_segments_.value();
  stats.gro_packets = gro_packets_.value();
  return stats;
}

}  // namespace pollux
