// SPDX-License-Identifier: Apache-2.0
// Whole sessions as hostile front ends can have them: messages with real descriptors, and at the
// same time anything in the memory that they share, while a switch takes turns on their rings.
// Through connection, session, memory, IOMMU, dirty log, the vhost-user port's device and a turn.
//
// Two guests and a well-behaved port are on the switch. The input is a program for the guests, an
// instruction (Op) after the other, its arguments behind it. Each guest begins with what its first
// two bytes have negotiated and with its rings running, so that the input need not find out how to
// start one: that way most inputs carry packets (POLLUX_FUZZ_STATS=1 tells how many).
//
// Beyond what the sanitizers see it is checked that the engine's equation holds to the packet, that
// every page written is in the dirty log, and that no packet, buffer, descriptor or mapping is left
// behind.
#include <fuzzer/FuzzedDataProvider.h>

#include <fstream>
#include <string_view>

#include "pollux/engine/turn.hpp"
#include "pollux/packet/fill.hpp"
#include "tests/support/lying_front_end.hpp"

namespace pollux::liar {
namespace {

using vhost::make_request;
using vhost::Message;

constexpr uint64_t kOffloads = spec::VIRTIO_NET_F_CSUM | spec::VIRTIO_NET_F_GUEST_CSUM |
                               spec::VIRTIO_NET_F_HOST_TSO4 | spec::VIRTIO_NET_F_HOST_TSO6 |
                               spec::VIRTIO_NET_F_GUEST_TSO4 | spec::VIRTIO_NET_F_GUEST_TSO6;
constexpr uint64_t kAlways = spec::VIRTIO_F_VERSION_1 | spec::VHOST_USER_F_PROTOCOL_FEATURES |
                             spec::VIRTIO_NET_F_MQ | spec::VIRTIO_NET_F_MTU |
                             spec::VIRTIO_NET_F_GUEST_ANNOUNCE;
constexpr uint64_t kOffered = kAlways | kOffloads | spec::VIRTIO_F_INDIRECT_DESC |
                              spec::VIRTIO_F_EVENT_IDX | spec::VIRTIO_F_RING_PACKED |
                              spec::VIRTIO_F_IN_ORDER | spec::VIRTIO_F_ACCESS_PLATFORM |
                              spec::VIRTIO_NET_F_MRG_RXBUF;

/// What inputs got to, for who wants to know how deep they go (POLLUX_FUZZ_STATS=1).
struct Reached {
  uint64_t inputs = 0;
  uint64_t turns = 0;
  uint64_t busy_turns = 0;   // that brought packets
  uint64_t from_guests = 0;  // packets taken from rings
  uint64_t to_guests = 0;    // packets put into rings
  uint64_t segments = 0;     // cut out of larger packets
  std::array<uint64_t, kDropReasonCount> drops{};
  uint64_t with_packets = 0;  // inputs that got a packet through
  uint64_t packed = 0;        // packets through packed rings, either way
  uint64_t behind_iommu = 0;  // packets through an IOMMU, either way
  uint64_t logged = 0;        // rounds of turns checked against the dirty log
  uint64_t broken = 0;        // connections ended by the back end
  uint64_t restarts = 0;      // rings stopped and started again where they were
  uint64_t reconnects = 0;
  Counts front_ends;

  void print() const {
    const auto line = [](const char* name, uint64_t value) {
      (void)std::fprintf(stderr, "reached: %-32s %llu\n", name,
                         static_cast<unsigned long long>(value));
    };
    line("inputs", inputs);
    line("... with packets", with_packets);
    line("turns", turns);
    line("... with packets", busy_turns);
    line("packets from guests", from_guests);
    line("packets to guests", to_guests);
    line("... in packed rings", packed);
    line("... behind IOMMUs", behind_iommu);
    line("segments", segments);
    for (size_t r = 0; r < kDropReasonCount; ++r) {
      if (drops[r] == 0) continue;
      const std::string name(kDropReasons[r].name);
      line(("dropped: " + name).c_str(), drops[r]);
    }
    line("messages", front_ends.messages);
    line("IOTLB updates", front_ends.mappings);
    line("rounds logged", front_ends.logged);
    line("rings restarted", front_ends.restarts);
    line("reconnects", reconnects);
    line("connections ended", front_ends.ended);
  }
};

Reached& reached() {
  static Reached all;
  return all;
}

/// What two bytes of the input mean.
Terms terms_of(uint16_t bits) {
  Terms terms;
  const auto has = [&](unsigned n) { return (bits >> n & 1) != 0; };
  terms.packed = has(0);
  terms.odd_size = has(1);
  terms.iommu = has(2);
  terms.in_band = has(3);
  terms.logged = has(4);
  terms.oblige = !has(5);
  terms.ready = !has(11);
  terms.features = kAlways;
  if (has(0)) terms.features |= spec::VIRTIO_F_RING_PACKED;
  if (has(2)) terms.features |= spec::VIRTIO_F_ACCESS_PLATFORM;
  if (has(6)) terms.features |= spec::VIRTIO_F_EVENT_IDX;
  if (has(7)) terms.features |= spec::VIRTIO_F_IN_ORDER;
  if (!has(8)) terms.features |= spec::VIRTIO_F_INDIRECT_DESC;
  if (!has(9)) terms.features |= spec::VIRTIO_NET_F_MRG_RXBUF;
  if (!has(10)) terms.features |= kOffloads;
  return terms;
}

/// The program's pool: made once, whole after each input.
Pool& pool() {
  static const std::unique_ptr<Pool> instance = std::move(
      Pool::create({.name = "fuzz", .packets = 256, .buffers = 64, .pages = HugePages::kNever})
          .value());
  return *instance;
}

uint64_t fates_of(const QueueCounters& counters, bool sends) {
  uint64_t sum = 0;
  for (size_t r = 0; r < kDropReasonCount; ++r) {
    const uint64_t drops = counters.drops.value(static_cast<DropReason>(r));
    reached().drops[r] += drops;
    sum += drops;
  }
  return sum + (sends ? counters.packets.value() : 0);
}

/// The port that behaves: sends what it is told to, takes everything.
struct Neighbour {
  std::atomic<uint32_t> offloads{0};
  QueueCounters in;
  QueueCounters out;
  size_t frame = 0;  // bytes of the next frame; 0: none
  uint8_t destination = 0xff;

  RxQueue rx() { return {this, poll, nullptr, &in}; }
  TxQueue tx() { return {this, send, flush, &offloads, &out}; }

  static void poll(void* self, Burst& burst) noexcept {
    auto& port = *static_cast<Neighbour*>(self);
    Packet* packet = port.frame == 0 ? nullptr : burst.cache().allocate();
    if (packet == nullptr) return;
    static const std::vector<std::byte> bytes(Packet::kMaxLength, std::byte{0xff});
    if (fill(*packet, burst.cache(), {bytes.data(), port.frame})) {
      const std::array<uint8_t, 12> addresses{2, 0, 0, 0, 0, port.destination, 2, 0, 0, 0, 0, 9};
      if (port.destination != 0xff) std::memcpy(packet->head(), addresses.data(), 6);
      std::memcpy(packet->head() + 6, addresses.data() + 6, 6);
      port.in.packets.add(1);
      burst.push(packet);
    } else {
      burst.cache().release(packet);
    }
    port.frame = 0;
  }
  static DropReason send(void* self, Burst& burst) noexcept {
    auto& port = *static_cast<Neighbour*>(self);
    for (const Packet* packet : burst.packets()) {
      std::vector<std::byte> bytes(packet->size());
      require(packet->copy_to(bytes.data(), 0, bytes.size()) == bytes.size(), "a packet cut short");
    }
    port.out.packets.add(burst.size());
    burst.release_front(burst.size());
    return DropReason::receiver_ring_full;
  }
  static void flush(void* /*self*/) noexcept {}
};

/// A guest's port, and a change of the guests' memory in the midst of its turns: after packets were
/// taken and before they are forwarded.
struct Guest {
  NoWorkers quiet;
  vhost_user::NetDevice device{
      {.queue_pairs = 2, .senders = 1, .queue_size = 1024, .features = kOffered, .in_band = true},
      quiet,
      {}};
  FrontEnd front_end;
  std::vector<RxQueue> rx = device.rx_queues();
  std::vector<TxQueue> tx = device.tx_queues();
  struct Racy {
    RxQueue queue;
    Guest* guest;
  };
  std::vector<Racy> racy;
  size_t race_at = 0;
  std::vector<uint8_t> race;

  Guest(EventLoop& loop, const Descriptors& fds, unsigned which)
      : front_end(loop, fds, which, device) {
    for (const RxQueue& queue : rx) racy.push_back({queue, this});
  }

  /// Packets that its rings have carried, either way.
  [[nodiscard]] uint64_t carried() const {
    uint64_t sum = 0;
    for (const RxQueue& queue : rx) sum += queue.counters->packets.value();
    for (const TxQueue& queue : tx) sum += queue.counters->packets.value();
    return sum;
  }

  RxQueue source(size_t i) {
    RxQueue queue = rx[i];
    queue.self = &racy[i];
    queue.poll = [](void* self, Burst& burst) noexcept {
      auto& racy = *static_cast<Racy*>(self);
      racy.queue.poll(racy.queue.self, burst);
      Guest& guest = *racy.guest;
      if (burst.empty()) return;
      guest.front_end.memory().put(guest.race_at, guest.race.data(), guest.race.size());
      guest.race.clear();
    };
    queue.complete = [](void* self) noexcept {
      const RxQueue& queue = static_cast<Racy*>(self)->queue;
      queue.complete(queue.self);
    };
    return queue;
  }
};

class Switch {
 public:
  Switch(EventLoop& loop, const Descriptors& fds, FuzzedDataProvider& input)
      : fds_(fds),
        input_(input),
        cache_(pool()),
        fdb_(std::move(stage::Fdb::create({.capacity = 16, .seed = 1}).value())),
        turn_(0, cache_, *fdb_) {
    topology_.sources.resize(1);
    for (uint16_t i = 0; i < 2; ++i) {
      guests_.push_back(std::make_unique<Guest>(loop, fds, i));
      Guest& guest = *guests_.back();
      for (size_t q = 0; q < guest.rx.size(); ++q) {
        topology_.sources[0].push_back({guest.source(q), i});
      }
      topology_.outputs.push_back({true, guest.tx});
      topology_.flood_ports.push_back(i);
    }
    topology_.sources[0].push_back({neighbour_.rx(), 2});
    topology_.outputs.push_back({true, {neighbour_.tx()}});
    topology_.flood_ports.push_back(2);
  }

  void play() {
    for (const auto& guest : guests_) {
      guest->front_end.connect(terms_of(input_.ConsumeIntegral<uint16_t>()));
    }
    for (unsigned n = 0; n < 300 && input_.remaining_bytes() != 0; ++n) step();
    run();
    for (const auto& guest : guests_) guest->front_end.hang_up();
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
  };
  /// What packets need comes up most often.
  static Op op_of(unsigned number) {
    constexpr unsigned kUncommon = 12;  // kWrite and what follows, once each
    if (number >= 32 - kUncommon) {
      return static_cast<Op>(static_cast<unsigned>(Op::kWrite) + number - (32 - kUncommon));
    }
    constexpr std::array kCommon{Op::kTurn,     Op::kTransmit, Op::kReceive, Op::kTurn,
                                 Op::kTransmit, Op::kReceive,  Op::kInject};
    return kCommon[number % kCommon.size()];
  }

  void step() {
    const auto byte = input_.ConsumeIntegral<uint8_t>();
    Guest& guest = *guests_[byte >> 7];
    FrontEnd& front_end = guest.front_end;
    if (!front_end.open()) front_end.connect(front_end.terms());
    switch (op_of(byte % 32)) {
      case Op::kTransmit:
        return transmit(front_end);
      case Op::kReceive:
        return receive(front_end);
      case Op::kTurn:
        return run();
      case Op::kInject:
        neighbour_.frame = 14 + input_.ConsumeIntegral<uint16_t>() % 9000;
        neighbour_.destination = input_.ConsumeIntegral<uint8_t>();
        return run();
      case Op::kWrite:
        return scribble(front_end);
      case Op::kRace:
        guest.race_at = input_.ConsumeIntegral<uint16_t>();
        guest.race = some_bytes(64);
        return;
      case Op::kSay:
        return say_something(front_end);
      case Op::kRaw:
        return say_anything(front_end);
      case Op::kBounce:
        return front_end.bounce(input_.ConsumeIntegral<uint8_t>() % kRings);
      case Op::kMap:
        return map(front_end);
      case Op::kAnswer:
        return answer(front_end);
      case Op::kLog:
        return change_log(front_end);
      case Op::kTruncate:
        return truncate();
      case Op::kState:
        return move_state(front_end);
      case Op::kSleep:
        return sleep(guest);
      case Op::kReconnect:
        ++reached().reconnects;
        return front_end.connect(terms_of(input_.ConsumeIntegral<uint16_t>()));
    }
  }

  std::vector<uint8_t> some_bytes(size_t most) {
    return input_.ConsumeBytes<uint8_t>(input_.ConsumeIntegral<uint8_t>() % most);
  }

  /// `size` bytes at `at`, in up to four pieces, the first cut wherever the input wants.
  std::vector<Piece> pieces(uint64_t at, uint32_t size, uint8_t shape) {
    std::vector<Piece> chain;
    const unsigned count = 1 + (shape & 3);
    for (unsigned i = 0; i + 1 < count && size != 0; ++i) {
      const uint32_t cut =
          std::min<uint32_t>(size, i == 0 ? input_.ConsumeIntegral<uint8_t>() : size / 2);
      chain.push_back({at, cut});
      at += cut;
      size -= cut;
    }
    chain.push_back({at, size});
    return chain;
  }
  std::optional<Twist> twist() {
    const auto byte = input_.ConsumeIntegral<uint8_t>();
    if (byte < 0xe0) return std::nullopt;
    return Twist{byte & 7U, byte >> 3 & 3U, input_.ConsumeIntegral<uint64_t>()};
  }
  uint64_t buffer() {
    return kBuffers + uint64_t{input_.ConsumeIntegral<uint8_t>()} * 192 % (kMemory - kBuffers);
  }

  void transmit(FrontEnd& front_end) {
    const auto shape = input_.ConsumeIntegral<uint8_t>();
    const uint64_t at = buffer();
    spec::virtio_net_hdr hdr{};
    std::vector<uint8_t> bytes;
    const auto payload = input_.ConsumeIntegral<uint16_t>() % 9000;
    switch (shape >> 6) {
      case 0:  // whatever lies there
        bytes.resize(12 + payload % 2000);
        for (size_t i = 0; i < bytes.size(); i += 8) {
          const auto word = front_end.memory().get<uint64_t>(at + i);
          std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
        }
        break;
      case 1: {  // any header
        const auto raw = input_.ConsumeBytes<uint8_t>(sizeof hdr);
        if (!raw.empty()) std::memcpy(&hdr, raw.data(), raw.size());
        break;
      }
      case 2:  // a large segment
        hdr = {1, 1, 54, static_cast<uint16_t>(100 + payload % 1400), 34, 16, 0};
        break;
      default:  // no offloads
        break;
    }
    const uint8_t port = (shape >> 4) & 3;
    if (bytes.empty()) bytes = tcp_packet(hdr, payload, port == 3 ? 0xff : port, shape & 1);
    bytes.resize(std::min<size_t>(bytes.size(), kMemory - at));
    front_end.memory().put(at, bytes.data(), bytes.size());
    const auto chain =
        pieces(front_end.address(at), static_cast<uint32_t>(bytes.size()), shape >> 2);
    (void)front_end.ring(1 + 2 * (shape & 1U)).offer(chain, false, (shape & 2) != 0, twist());
  }

  void receive(FrontEnd& front_end) {
    const auto shape = input_.ConsumeIntegral<uint8_t>();
    constexpr std::array<uint32_t, 4> kSizes{1526, 2048, 128, 16384};
    const unsigned count = 1 + (shape >> 5);
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t at = front_end.address(buffer());
      const auto chain = pieces(at, kSizes[(shape >> 3) & 3], shape >> 1 & 1);
      (void)front_end.ring(2 * (shape & 1U)).offer(chain, true, (shape & 4) != 0, twist());
    }
  }

  void scribble(FrontEnd& front_end) {
    const auto at = input_.ConsumeIntegral<uint16_t>();
    const std::vector<uint8_t> bytes = some_bytes(64);
    front_end.memory().put(at, bytes.data(), bytes.size());
  }

  void truncate() {
    as_agreed_ = false;
    const auto how = input_.ConsumeIntegral<uint8_t>();
    (void)!ftruncate(fds_.at(how >> 6), static_cast<off_t>((how & 31U) * kPage));
    run();
  }

  /// A message as it should be, but for its numbers.
  void say_something(FrontEnd& front_end) {
    as_agreed_ = false;
    using namespace spec;
    const auto which = input_.ConsumeIntegral<uint8_t>();
    const auto arg = input_.ConsumeIntegral<uint8_t>();
    const uint32_t ring = arg % kRings;
    const uint64_t shift = (arg & 3U) * kMemory;
    const VhostUserMemoryRegion region{kGuest + shift, kMemory, kUser + shift, 0};
    const auto say = [&](uint32_t request, const auto& payload, const std::vector<int>& fds = {}) {
      Message message = make_request(request, payload);
      if ((which & 0x80) == 0) message.flags |= VHOST_USER_NEED_REPLY_MASK;
      (void)front_end.say(message, fds);
      front_end.look_after();
    };
    switch (which & 0x1f) {
      case 0:
        return say(VHOST_USER_GET_VRING_BASE, vhost_vring_state{ring, 0});
      case 1:
        return say(VHOST_USER_SET_VRING_BASE, vhost_vring_state{ring, arg * 0x10101U});
      case 2:
        return say(VHOST_USER_SET_VRING_ADDR, front_end.addresses(ring));
      case 3:
        return say(VHOST_USER_SET_VRING_NUM, vhost_vring_state{ring, 1U << (arg / kRings % 12)});
      case 4:
        return say(VHOST_USER_SET_VRING_KICK, uint64_t{ring}, {fds_.at(arg / kRings)});
      case 5:
        return say(VHOST_USER_SET_VRING_CALL, uint64_t{ring}, {fds_.at(arg / kRings)});
      case 6:
        return say(VHOST_USER_SET_VRING_ERR, uint64_t{ring}, {fds_.at(arg / kRings)});
      case 7:
        return say(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{ring, (arg >> 7) ^ 1U});
      case 8:
        return say(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region}, {fds_.at(arg >> 7)});
      case 9:
        return say(VHOST_USER_REM_MEM_REG, VhostUserMemRegMsg{0, region});
      case 10: {
        Message table = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{1});
        table.put(region);
        (void)front_end.say(table, {fds_.at(arg >> 7)});
        return front_end.look_after();
      }
      case 11:
        return say(VHOST_USER_SET_STATUS, uint64_t{arg});
      case 12:
        return say(VHOST_USER_SET_LOG_FD, uint64_t{0}, {fds_.at(arg)});
      case 13:
        return say(VHOST_USER_SET_FEATURES, (arg & 1U) != 0 ? kOffered : kAlways);
      case 14:
        return say(VHOST_USER_SEND_RARP, uint64_t{0x020000000002} | uint64_t{arg} << 32);
      case 15:
        return say(VHOST_USER_NET_SET_MTU, uint64_t{arg} << 4);
      case 16:
        return say(VHOST_USER_SET_BACKEND_REQ_FD, uint64_t{0}, {fds_.at(arg)});
      case 17:
        return say(VHOST_USER_VRING_KICK, vhost_vring_state{ring, 0});
      case 18:
        return say(VHOST_USER_SET_PROTOCOL_FEATURES, uint64_t{arg} << 3);
      default: {  // messages without payload
        constexpr std::array<uint32_t, 12> kPlain{
            VHOST_USER_POSTCOPY_ADVISE,       VHOST_USER_POSTCOPY_LISTEN,
            VHOST_USER_POSTCOPY_END,          VHOST_USER_RESET_OWNER,
            VHOST_USER_RESET_DEVICE,          VHOST_USER_GET_STATUS,
            VHOST_USER_GET_QUEUE_NUM,         VHOST_USER_GET_MAX_MEM_SLOTS,
            VHOST_USER_CHECK_DEVICE_STATE,    VHOST_USER_GET_FEATURES,
            VHOST_USER_GET_PROTOCOL_FEATURES, VHOST_USER_SET_OWNER};
        (void)front_end.say(make_request(kPlain[arg % kPlain.size()]));
        return front_end.look_after();
      }
    }
  }

  /// Any bytes with any descriptors.
  void say_anything(FrontEnd& front_end) {
    as_agreed_ = false;
    const auto fds = input_.ConsumeIntegral<uint8_t>();
    std::vector<int> with;
    for (unsigned i = 0; i < (fds & 7U); ++i) with.push_back(fds_.at((fds >> 3) + i));
    const auto text = input_.ConsumeBytes<std::byte>(1 + input_.ConsumeIntegral<uint8_t>());
    if (!text.empty()) (void)front_end.say_raw(text, with);
    front_end.look_after();
  }

  /// A mapping, or its end: pages where they should be, or whatever the input likes.
  void map(FrontEnd& front_end) {
    const auto how = input_.ConsumeIntegral<uint8_t>();
    const uint64_t page = (input_.ConsumeIntegral<uint8_t>() % 32) * kPage;
    uint64_t size = (1 + (how >> 5)) * kPage;
    uint64_t user = kUser + page;
    if ((how & 0x10) != 0) size = input_.ConsumeIntegral<uint64_t>();
    if ((how & 0x08) != 0) user = kUser + input_.ConsumeIntegral<uint16_t>();
    const uint8_t type = (how & 4) != 0 ? spec::VHOST_IOTLB_INVALIDATE : spec::VHOST_IOTLB_UPDATE;
    front_end.map(kIova + page, size, user, how & 3, type);
    front_end.look_after();
  }

  void answer(FrontEnd& front_end) {
    const auto how = input_.ConsumeIntegral<uint8_t>();
    std::vector<uint8_t> bytes;
    if (how % 4 == 3) bytes = some_bytes(64);
    front_end.answer(how % 4, std::as_bytes(std::span(bytes)));
  }

  void change_log(FrontEnd& front_end) {
    const auto how = input_.ConsumeIntegral<uint8_t>();
    if ((how & 1) != 0) front_end.give_log((how & 0x40) != 0 ? 16 : kPage, (how >> 1 & 1) * kPage);
    front_end.set_features((how & 0x80) != 0);
  }

  /// The state goes into the pipe or comes out of it; the input may have put something there.
  void move_state(FrontEnd& front_end) {
    const auto how = input_.ConsumeIntegral<uint8_t>();
    if ((how & 2) != 0) {
      const std::vector<uint8_t> bytes = some_bytes(32);
      (void)!write(fds_.pipe(true), bytes.data(), bytes.size());
    }
    const bool load = (how & 1) != 0;
    const spec::VhostUserTransferDeviceState wanted{load ? 1U : 0U,
                                                    static_cast<uint32_t>(how >> 7)};
    for (uint32_t ring = 0; ring < kRings && (how & 4) != 0; ++ring) {
      (void)front_end.say(
          make_request(spec::VHOST_USER_GET_VRING_BASE, spec::vhost_vring_state{ring, 0}));
    }
    (void)front_end.say(make_request(spec::VHOST_USER_SET_DEVICE_STATE_FD, wanted),
                        {fds_.pipe(!load)});
    front_end.look_after();
    if ((how & 8) != 0) (void)front_end.say(make_request(spec::VHOST_USER_CHECK_DEVICE_STATE));
  }

  /// A worker that thinks of sleeping.
  void sleep(Guest& guest) {
    for (const RxQueue& queue : guest.rx) {
      (void)queue.arm(queue.self);
      queue.disarm(queue.self);
    }
  }

  void run() {
    const bool quiet = as_agreed_ && guests_[0]->race.empty() && guests_[1]->race.empty();
    for (const auto& guest : guests_) {
      if (quiet) guest->front_end.begin_logged();
    }
    const std::array before{guests_[0]->carried(), guests_[1]->carried()};
    for (const RxSource& source : topology_.sources[0]) {
      ++reached().turns;
      if (turn_.run(topology_, source, 0)) ++reached().busy_turns;
    }
    for (size_t i = 0; i < guests_.size(); ++i) {
      const uint64_t carried = guests_[i]->carried() - before[i];
      if (guests_[i]->front_end.terms().packed) reached().packed += carried;
      if (guests_[i]->front_end.terms().iommu) reached().behind_iommu += carried;
    }
    for (const auto& guest : guests_) {
      if (quiet) guest->front_end.end_logged();
      guest->device.report_broken_rings();
      guest->front_end.look_after();
    }
  }

  void check() {
    uint64_t in = neighbour_.in.packets.value();
    uint64_t fates = fates_of(neighbour_.in, false) + fates_of(neighbour_.out, true);
    uint64_t carried = 0;
    for (const auto& guest : guests_) {
      carried += guest->carried();
      const Counts& counts = guest->front_end.counts();
      reached().front_ends.messages += counts.messages;
      reached().front_ends.mappings += counts.mappings;
      reached().front_ends.restarts += counts.restarts;
      reached().front_ends.logged += counts.logged;
      reached().front_ends.ended += counts.ended;
      for (const RxQueue& queue : guest->rx) {
        in += queue.counters->packets.value();
        fates += fates_of(*queue.counters, false);
        reached().from_guests += queue.counters->packets.value();
      }
      for (const TxQueue& queue : guest->tx) {
        fates += fates_of(*queue.counters, true);
        reached().to_guests += queue.counters->packets.value();
      }
    }
    const WorkerStats stats = turn_.stats();
    require(in + stats.made() == fates, "the accounts");
    reached().segments += stats.gso_segments;
    ++reached().inputs;
    if (carried != 0) ++reached().with_packets;
  }

  const Descriptors& fds_;
  FuzzedDataProvider& input_;
  bool as_agreed_ = true;  // nothing was said yet that bends memory, rings or log
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
