// SPDX-License-Identifier: Apache-2.0
// Whole sessions as hostile front ends can have them: messages with real descriptors, and at the
// same time anything in the memory that they share, while a switch takes turns on their rings.
// Through connection, session, memory, IOMMU, dirty log, in-flight regions, the vhost-user port's
// device, its control queue and a turn.
//
// Two guests and a well-behaved port are on the switch. The input is a program for the guests, an
// instruction (Op) after the other, its arguments behind it. Each guest begins with what its first
// two bytes have negotiated and with its rings running, so that the input need not find out how to
// start one: that way most inputs carry packets (POLLUX_FUZZ_STATS=1 tells how many).
//
// Beyond what the sanitizers see it is checked that the engine's equation holds to the packet, that
// every page written is in the dirty log, that in-flight regions say "at rest" between turns, that
// queues beyond those in use get nothing, and that no packet, buffer, descriptor or mapping is left
// behind.
#include <fuzzer/FuzzedDataProvider.h>

#include <fstream>
#include <string_view>

#include "pollux/engine/turn.hpp"
#include "tests/fuzz/session_driver.hpp"
#include "tests/fuzz/session_messages.hpp"
#include "tests/fuzz/session_ports.hpp"
#include "tests/fuzz/session_reached.hpp"
#include "tests/support/lying_front_end.hpp"

namespace pollux::liar {
namespace {

class Switch {
 public:
  Switch(EventLoop& loop, const Descriptors& fds, FuzzedDataProvider& input)
      : fds_(fds),
        input_(input),
        driver_(input),
        speaker_(input, fds),
        cache_(pool()),
        fdb_(std::move(stage::Fdb::create({.capacity = 16, .seed = 1}).value())),
        turn_(0, cache_, *fdb_) {
    topology_.sources.resize(1);
    for (uint16_t i = 0; i < 2; ++i) {
      guests_.push_back(std::make_unique<Guest>(loop, worker_, fds, i));
      Guest& guest = *guests_.back();
      guest.between = [this] { interrupt(); };
      for (size_t q = 0; q < guest.rx.size(); ++q) {
        topology_.sources[0].push_back({guest.source(q), i});
      }
      std::vector<TxQueue> sinks;
      for (size_t q = 0; q < guest.tx.size(); ++q) sinks.push_back(guest.sink(q));
      topology_.outputs.push_back({true, sinks});
      topology_.flood_ports.push_back(i);
    }
    topology_.sources[0].push_back({neighbour_.rx(), 2});
    topology_.outputs.push_back({true, {neighbour_.tx()}});
    topology_.flood_ports.push_back(2);
  }

  void play() {
    for (const auto& guest : guests_) {
      connect(*guest, terms_of(input_.ConsumeIntegral<uint16_t>()));
    }
    for (unsigned n = 0; n < 300 && input_.remaining_bytes() != 0 && patience_ != 0; ++n) step();
    run();
    for (const auto& guest : guests_) {
      PortInfo info;
      guest->device.describe(info);
      guest->front_end.hang_up();
    }
    run();
    check();
  }

 private:
  enum class Op : uint8_t {
    kTransmit,
    kReceive,
    kTurn,
    kInject,
    kWrite,
    kRace,
    kSay,
    kRaw,
    kBounce,
    kMap,
    kAnswer,
    kLog,
    kTruncate,
    kState,
    kSleep,
    kReconnect,
    kCommand,
    kStream,
    kInflight,
    kResume,
    kInterrupt,
    kHandOver,
  };
  /// What packets need comes up most often.
  static Op op_of(unsigned number, bool later) {
    constexpr unsigned kUncommon = 12;  // kWrite and what follows, once each
    if (number >= 32 - kUncommon) {
      return static_cast<Op>(static_cast<unsigned>(Op::kWrite) + number - (32 - kUncommon));
    }
    constexpr std::array kCommon{Op::kTurn,     Op::kTransmit, Op::kReceive, Op::kTurn,
                                 Op::kTransmit, Op::kReceive,  Op::kInject};
    constexpr std::array kLater{Op::kCommand,  Op::kStream, Op::kInflight,  Op::kResume,
                                Op::kCommand,  Op::kStream, Op::kInterrupt, Op::kCommand,
                                Op::kInflight, Op::kStream, Op::kHandOver,  Op::kResume,
                                Op::kInterrupt};
    const bool new_one = later && number >= kCommon.size();
    return new_one ? kLater[number - kCommon.size()] : kCommon[number % kCommon.size()];
  }

  void step() {
    const auto code = byte();
    Guest& guest = *guests_[code >> 7];
    if (!guest.front_end.open()) connect(guest, guest.front_end.terms());
    act(op_of(code % 32, (code & 0x20) != 0), guest);
  }
  void act(Op op, Guest& guest) {
    FrontEnd& front_end = guest.front_end;
    switch (op) {
      case Op::kTransmit:
        return driver_.transmit(front_end);
      case Op::kReceive:
        return driver_.receive(front_end);
      case Op::kTurn:
        return run();
      case Op::kInject:
        return inject();
      case Op::kWrite:
        honest_ = false;
        return driver_.scribble(front_end);
      case Op::kRace:
        honest_ = false;
        guest.race_at = input_.ConsumeIntegral<uint16_t>();
        guest.race = some_bytes(input_, 64);
        return;
      case Op::kSay:
        as_agreed_ = false;
        return speaker_.something(front_end);
      case Op::kRaw:
        as_agreed_ = false;
        return speaker_.anything(front_end);
      case Op::kBounce:
        return front_end.bounce(byte() % front_end.terms().rings());
      case Op::kMap:
        honest_ = false;
        return speaker_.map(front_end);
      case Op::kAnswer:
        return speaker_.answer(front_end);
      case Op::kLog:
        return speaker_.change_log(front_end);
      case Op::kTruncate:
        return truncate();
      case Op::kState:
        return speaker_.move_state(front_end);
      case Op::kSleep:
        return sleep(guest);
      case Op::kReconnect:
        ++reached().reconnects;
        return connect(guest, terms_of(input_.ConsumeIntegral<uint16_t>()));
      case Op::kCommand:
        return command(guest);
      case Op::kStream:
        return driver_.stream(front_end);
      case Op::kInflight:
        regions_whole_ = false;
        return speaker_.inflight(front_end);
      case Op::kResume:
        return resume(guest);
      case Op::kInterrupt:
        interrupt_in_ = 1 + byte() % 8;
        return;
      case Op::kHandOver:
        return front_end.hand_over((byte() & 1) != 0, as_agreed_ && honest_ && regions_whole_);
    }
  }

  uint8_t byte() { return input_.ConsumeIntegral<uint8_t>(); }

  /// Connections cost more than anything else, and many are no better than a few: inputs that want
  /// more of them end early.
  void connect(Guest& guest, const Terms& terms) {
    if (patience_ == 0) return;
    --patience_;
    guest.front_end.connect(terms);
  }
  void resume(Guest& guest) {
    if (patience_ == 0) return;
    --patience_;
    const bool knows = (byte() & 1) != 0;
    guest.front_end.resume(knows, as_agreed_ && !worker_.busy);
  }

  void inject() {
    const auto size = input_.ConsumeIntegral<uint16_t>();
    neighbour_.frame = 14 + size % 9000;
    neighbour_.destination = byte();
    if (size >= 0xc000) {
      neighbour_.frame = 8 + size % 1400;
      neighbour_.segments = 2 + (size >> 11 & 7);
      neighbour_.partial = (neighbour_.destination & 0x80) != 0;
      neighbour_.destination &= 3;
    }
    run();
  }

  /// A command that is carried out between turns, or by control in the midst of one.
  void command(Guest& guest) {
    FrontEnd& front_end = guest.front_end;
    const auto answer = driver_.command(front_end);
    if (!answer) return;
    if (as_agreed_ && !worker_.busy) front_end.begin_logged();
    const auto how = byte();
    if ((how & 1) != 0) {
      front_end.kick_off(kControl);
      front_end.look_after();
    } else {
      guest.device.serve_control();
    }
    front_end.end_logged();
    const auto ack = front_end.memory().get<uint8_t>(*answer);
    ++(ack == Driver::kNoAnswer     ? reached().unanswered
       : ack == spec::VIRTIO_NET_OK ? reached().obeyed
                                    : reached().refused);
  }

  /// What control does in the midst of a turn, with a worker that does not come by in time.
  void interrupt() {
    if (interrupt_in_ == 0 || --interrupt_in_ != 0 || worker_.busy) return;
    ++reached().interrupts;
    worker_.busy = true;
    Guest& guest = *guests_[byte() & 1];
    constexpr std::array kWhat{Op::kCommand,   Op::kCommand, Op::kSay,     Op::kBounce,
                               Op::kReconnect, Op::kResume,  Op::kCommand, Op::kMap};
    if (guest.front_end.open()) act(kWhat[byte() % kWhat.size()], guest);
    worker_.busy = false;
  }

  void truncate() {
    as_agreed_ = false;
    const auto how = byte();
    (void)!ftruncate(fds_.at(how >> 6), static_cast<off_t>((how & 31U) * kPage));
    run();
  }

  /// A worker that thinks of sleeping.
  static void sleep(Guest& guest) {
    for (const RxQueue& queue : guest.rx) {
      (void)queue.arm(queue.self);
      queue.disarm(queue.self);
    }
  }

  void run() {
    const bool quiet =
        as_agreed_ && guests_[0]->race.empty() && guests_[1]->race.empty() && interrupt_in_ == 0;
    std::array<Before, 2> before;
    for (size_t i = 0; i < guests_.size(); ++i) {
      if (quiet) guests_[i]->front_end.begin_logged();
      before[i] = look_at(*guests_[i]);
    }
    for (const RxSource& source : topology_.sources[0]) {
      ++reached().turns;
      if (turn_.run(topology_, source, 0)) ++reached().busy_turns;
    }
    for (size_t i = 0; i < guests_.size(); ++i) {
      if (quiet) guests_[i]->front_end.end_logged();
      compare(*guests_[i], before[i], quiet);
      guests_[i]->device.report_broken_rings();
      guests_[i]->front_end.look_after();
    }
  }

  /// A guest before turns that nothing disturbs.
  struct Before {
    uint64_t carried = 0;
    size_t waiting = 0;  // chains in a receiveq that is not in use
  };
  static bool one_pair(const Guest& guest) {
    const auto& state = guest.device.control_state();
    return guest.front_end.terms().control() && state.queue_pairs == 1 && !state.rss;
  }
  static Before look_at(Guest& guest) {
    return {guest.carried(), guest.front_end.open() ? guest.front_end.ring(2).waiting() : 0};
  }
  void compare(Guest& guest, const Before& before, bool quiet) const {
    const uint64_t carried = guest.carried() - before.carried;
    FrontEnd& front_end = guest.front_end;
    if (front_end.terms().packed) reached().packed += carried;
    if (front_end.terms().iommu) reached().behind_iommu += carried;
    if (front_end.terms().inflight) reached().noted += carried;
    if (!one_pair(guest)) reached().steered += carried;
    if (!quiet || !front_end.open()) return;
    // 5.1.6.5.6.2: a driver that said so gets nothing there.
    require(!one_pair(guest) || !honest_ || driver_.twisted() ||
                front_end.ring(2).waiting() == before.waiting,
            "a frame in a queue that is not in use");
    if (!front_end.terms().inflight || !regions_whole_) return;
    ++reached().at_rest;
    require(front_end.region_at_rest(), "a chain in flight between turns");
  }

  void check() {
    Reached& all = reached();
    uint64_t in = neighbour_.in.packets.value();
    uint64_t fates = all.add(neighbour_.in, false) + all.add(neighbour_.out, true);
    uint64_t carried = 0;
    for (const auto& guest : guests_) {
      carried += guest->carried();
      in += guest->sent();
      for (const RxQueue& queue : guest->rx) fates += all.add(*queue.counters, false);
      for (const TxQueue& queue : guest->tx) fates += all.add(*queue.counters, true);
      all.from_guests += guest->sent();
      all.to_guests += guest->received();
      all.add(guest->front_end.counts());
    }
    const WorkerStats stats = turn_.stats();
    require(in + stats.made() == fates, "the accounts");
    all.segments += stats.gso_segments;
    all.joined += stats.gro_segments;
    all.joints += stats.gro_packets;
    ++all.inputs;
    if (carried != 0) ++all.with_packets;
  }

  const Descriptors& fds_;
  FuzzedDataProvider& input_;
  Driver driver_;
  Speaker speaker_;
  bool as_agreed_ = true;      // nothing was said yet that bends memory, rings or log
  bool honest_ = true;         // no buffer can lie in a ring
  bool regions_whole_ = true;  // nobody has written to in-flight regions but the back end
  unsigned patience_ = 6;      // connections
  unsigned interrupt_in_ = 0;  // calls of guests' queues; 0: never
  OneWorker worker_;
  PoolCache cache_;
  std::unique_ptr<stage::Fdb> fdb_;
  Turn turn_;
  Neighbour neighbour_;
  Topology topology_;
  std::vector<std::unique_ptr<Guest>> guests_;
};

/// The lowest free descriptor: moves up when something leaks.
int next_fd() {
  const int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
  if (fd >= 0) close(fd);
  return fd;
}

bool mapped() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(Descriptors::kName) != std::string::npos) return true;
  }
  return false;
}

}  // namespace
}  // namespace pollux::liar

/// A third of the time would go into what the tests under address sanitizer look for anyway:
/// pointers to what was on a stack, and whole stacks of each allocation.
extern "C" const char* __asan_default_options() {
  return "detect_stack_use_after_return=0:malloc_context_size=1:quarantine_size_mb=32";
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pollux;
  using namespace pollux::liar;
  static const std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  static Descriptors descriptors;
  static const bool told =
      getenv("POLLUX_FUZZ_STATS") != nullptr && std::atexit([] { reached().print(); }) == 0;
  (void)told;
  (void)pool();  // its descriptor is none of the input's
  descriptors.reset();
  const int before = next_fd();
  {
    FuzzedDataProvider input(data, size);
    Switch all(*loop, descriptors, input);
    all.play();
  }
  require(pool().free_packets() == pool().packet_count(), "packets leaked");
  require(pool().free_buffers() == pool().buffer_count(), "buffers leaked");
  require(next_fd() == before, "a descriptor leaked");
  // Reading what is mapped costs more than an input.
  if (reached().inputs % 256 == 0) require(!mapped(), "a mapping leaked");
  return 0;
}
