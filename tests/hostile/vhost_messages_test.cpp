// SPDX-License-Identifier: Apache-2.0
// What hostile and unlucky front ends send, as a table of named cases. Each is played against a
// connection with two running rings, once by a front end that asks for acknowledgements and once by
// one that does not. Whatever comes: no crash, no leak of a descriptor or a mapping, no change by a
// message that was refused, and a sentence that says what was wrong.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "pollux/vhost/backend_connection.hpp"
#include "tests/support/vhost_peer.hpp"

namespace pollux::vhost {
namespace {

using namespace spec;
using test::kGuest;
using test::kPage;
using test::kRingSize;
using test::kSize;
using test::kUser;
using test::make_event;
using test::make_memory;
using test::make_pair;
using test::mappings_of;
using test::open_fds;
using test::RecordingDevice;
using test::region_at;
using test::ring_at;

constexpr const char* kMemoryName = "hostile-memory";
constexpr uint64_t kAllFeatures = VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES;

/// A message and the descriptors to send with it.
struct Shot {
  std::vector<std::byte> bytes;
  std::vector<int> fds;
};

/// A back end on one end of a socket pair, the attacker on the other.
class Arena {
 public:
  explicit Arena(uint64_t protocol_features = BackendSession::possible_protocol_features())
      : protocol_features_(protocol_features) {
    auto [near, far] = make_pair();
    far_ = std::move(far);
    connection_ = std::move(*BackendConnection::create(*loop_, std::move(near), device, Log(),
                                                       [this](const Error& error) {
                                                         closed = error;
                                                         connection_.reset();
                                                       }));
  }

  /// The messages of a proper start, in order.
  std::vector<Shot> start_up() {
    std::vector<Shot> shots;
    const auto add = [&](Message message, std::vector<int> fds = {}) {
      shots.push_back({test::wire(message), std::move(fds)});
    };
    add(make_request(VHOST_USER_SET_OWNER));
    add(make_request(VHOST_USER_SET_PROTOCOL_FEATURES, protocol_features_));
    add(make_request(VHOST_USER_SET_FEATURES, kAllFeatures));
    Message table = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{1});
    table.put(region_at(0));
    add(std::move(table), {keep(make_memory(kSize, kMemoryName))});
    for (uint32_t i = 0; i < 2; ++i) {
      add(make_request(VHOST_USER_SET_VRING_NUM, vhost_vring_state{i, kRingSize}));
      add(make_request(VHOST_USER_SET_VRING_BASE, vhost_vring_state{i, 0}));
      add(make_request(VHOST_USER_SET_VRING_ADDR, ring_at(i)));
      add(make_request(VHOST_USER_SET_VRING_CALL, uint64_t{i}), {keep(make_event())});
      add(make_request(VHOST_USER_SET_VRING_KICK, uint64_t{i}), {keep(make_event())});
      add(make_request(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{i, 1}));
    }
    return shots;
  }

  /// A descriptor of the attacker's own, closed when the arena goes.
  int keep(UniqueFd fd) {
    kept_.push_back(std::move(fd));
    return kept_.back().get();
  }

  void fire(const Shot& shot) {
    (void)test::send_raw(far_.get(), shot.bytes, shot.fds);
    pump();
  }
  void pump() {
    while (*loop_->run_once(Nanos(0))) {
    }
  }
  void hang_up() {
    far_.reset();
    pump();
  }
  std::vector<std::byte> replies() { return test::receive_raw(far_.get()).bytes; }
  [[nodiscard]] bool open() const { return connection_ != nullptr; }
  const SessionState& state() { return connection_->session().state(); }

  RecordingDevice device;
  std::optional<Error> closed;

 private:
  uint64_t protocol_features_;
  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  std::vector<UniqueFd> kept_;
  UniqueFd far_;
  std::unique_ptr<BackendConnection> connection_;
};

// What must come of a shot.
enum class Verdict {
  kRefused,  ///< a refusal if asked for one, else the end; nothing changed
  kEnds,     ///< the end in any case
  kTaken,    ///< legal, however odd
};

struct Case {
  std::string name;
  Verdict verdict;
  std::function<Shot(Arena&)> make;
  bool rings_stay = true;  ///< after a shot that is taken, both rings run on
};

/// What must come of it, in words.
std::ostream& operator<<(std::ostream& out, const Case& c) {
  if (c.verdict == Verdict::kEnds) return out << "the connection ends, with a reason";
  if (c.verdict == Verdict::kRefused) return out << "refused with a reason, nothing changed";
  return out << "legal: taken" << (c.rings_stay ? ", both rings run on" : "");
}

Shot shot(const Message& message, std::vector<int> fds = {}) {
  return {test::wire(message), std::move(fds)};
}
template <typename T>
Shot shot(uint32_t request, const T& payload, std::vector<int> fds = {}) {
  return shot(make_request(request, payload), std::move(fds));
}
template <typename T>
Case simple(std::string name, Verdict verdict, uint32_t request, T payload) {
  return {std::move(name), verdict, [request, payload](Arena&) { return shot(request, payload); }};
}

// Every row of the request table, with its payload or its descriptors wrong.
std::vector<Case> malformed_cases() {
  std::vector<Case> cases;
  for (const RequestRule& rule : request_rules()) {
    const std::string name(rule.name);
    const Verdict verdict = rule.has_reply ? Verdict::kEnds : Verdict::kRefused;
    const auto sized = [&rule](uint32_t size, size_t fds) {
      return [&rule, size, fds](Arena& arena) {
        Message message = make_request(rule.request);
        message.payload.resize(size);
        std::vector<int> with;
        for (size_t i = 0; i < fds; ++i) with.push_back(arena.keep(make_event()));
        return shot(message, std::move(with));
      };
    };
    if (rule.min_payload > 0) {
      cases.push_back({name + "_empty", verdict, sized(0, rule.min_fds)});
      cases.push_back({name + "_short", verdict, sized(rule.min_payload - 1, rule.min_fds)});
    }
    if (rule.max_payload < kMaxPayload)
      cases.push_back({name + "_oversized", verdict, sized(rule.max_payload + 1, rule.min_fds)});
    if (rule.max_fds < kMaxMessageFds)
      cases.push_back({name + "_surplus_fds", verdict, sized(rule.min_payload, rule.max_fds + 1)});
    if (rule.min_fds > 0)
      cases.push_back({name + "_missing_fd", verdict, sized(rule.min_payload, 0)});
    cases.push_back({name + "_nine_fds", Verdict::kEnds, sized(rule.min_payload, 9)});
    cases.push_back({name + "_marked_as_reply", Verdict::kEnds, [&rule](Arena&) {
                       Message message = make_request(rule.request);
                       message.payload.resize(rule.min_payload);
                       message.flags |= VHOST_USER_REPLY_MASK;
                       return shot(message);
                     }});
  }
  return cases;
}

std::vector<Case> header_cases() {
  std::vector<Case> cases;
  for (const uint32_t id : {0U, 45U, 99U, 0x80000000U, 0xffffffffU})
    cases.push_back({"unknown_request_" + std::to_string(id), Verdict::kRefused,
                     [id](Arena&) { return shot(make_request(id)); }});
  for (const uint32_t version : {0U, 2U, 3U})
    cases.push_back({"version_" + std::to_string(version), Verdict::kEnds, [version](Arena&) {
                       Message message = make_request(VHOST_USER_GET_FEATURES);
                       message.flags = version;
                       return shot(message);
                     }});
  for (const uint32_t size : {kMaxPayload + 1, 0x7fffffffU, 0xffffffffU})
    cases.push_back(
        {"announces_" + std::to_string(size) + "_bytes", Verdict::kEnds, [size](Arena&) {
           Shot s = shot(make_request(VHOST_USER_SET_MEM_TABLE));
           std::memcpy(s.bytes.data() + 8, &size, sizeof(size));
           return s;
         }});
  cases.push_back({"all_bits_of_flags", Verdict::kEnds, [](Arena&) {
                     Message message = make_request(VHOST_USER_SET_OWNER);
                     message.flags = 0xffffffff;
                     return shot(message);
                   }});
  cases.push_back({"a_full_load_of_descriptors", Verdict::kEnds, [](Arena& arena) {
                     return Shot{test::wire(make_request(VHOST_USER_SET_OWNER)),
                                 std::vector<int>(253, arena.keep(make_event()))};
                   }});
  return cases;
}

std::vector<Case> ring_cases() {
  std::vector<Case> cases;
  const auto state = [&](const char* name, Verdict verdict, uint32_t request, uint32_t index,
                         uint32_t num) {
    cases.push_back(simple(name, verdict, request, vhost_vring_state{index, num}));
  };
  for (const uint32_t index : {2U, 255U, 256U, 257U, 65536U, 65537U, 0x80000000U, 0xffffffffU}) {
    const std::string ring = "_of_ring_" + std::to_string(index);
    state(("num" + ring).c_str(), Verdict::kRefused, VHOST_USER_SET_VRING_NUM, index, 256);
    state(("base" + ring).c_str(), Verdict::kRefused, VHOST_USER_SET_VRING_BASE, index, 0);
    state(("get_base" + ring).c_str(), Verdict::kEnds, VHOST_USER_GET_VRING_BASE, index, 0);
    state(("enable" + ring).c_str(), Verdict::kRefused, VHOST_USER_SET_VRING_ENABLE, index, 1);
    auto addr = ring_at(0);
    addr.index = index;
    cases.push_back(simple("addr" + ring, Verdict::kRefused, VHOST_USER_SET_VRING_ADDR, addr));
  }
  for (const uint32_t size : {0U, 3U, 63U, 65U, 32769U, 65536U, 0x80000000U, 0xffffffffU})
    state(("ring_size_" + std::to_string(size)).c_str(), Verdict::kRefused,
          VHOST_USER_SET_VRING_NUM, 0, size);
  state("size_of_a_running_ring_changes", Verdict::kRefused, VHOST_USER_SET_VRING_NUM, 0, 128);
  state("size_of_a_running_ring_repeated", Verdict::kTaken, VHOST_USER_SET_VRING_NUM, 0, kRingSize);
  state("index_of_a_running_ring_changes", Verdict::kRefused, VHOST_USER_SET_VRING_BASE, 0, 7);
  state("base_beyond_16_bits", Verdict::kRefused, VHOST_USER_SET_VRING_BASE, 1, 0x10000);
  state("enable_with_2", Verdict::kRefused, VHOST_USER_SET_VRING_ENABLE, 0, 2);
  state("enable_twice", Verdict::kTaken, VHOST_USER_SET_VRING_ENABLE, 0, 1);

  const auto addr = [&](const char* name, Verdict verdict, auto change) {
    auto wanted = ring_at(0);
    change(wanted);
    Case c = simple(name, verdict, VHOST_USER_SET_VRING_ADDR, wanted);
    c.rings_stay = verdict != Verdict::kTaken;
    cases.push_back(std::move(c));
  };
  addr("desc_misaligned", Verdict::kRefused, [](auto& a) { a.desc_user_addr += 8; });
  addr("avail_misaligned", Verdict::kRefused, [](auto& a) { a.avail_user_addr += 1; });
  addr("used_misaligned", Verdict::kRefused, [](auto& a) { a.used_user_addr += 2; });
  addr("unknown_ring_flags", Verdict::kRefused, [](auto& a) { a.flags = 0x80000000; });
  // Legal to say, as memory may follow; the ring rests until then.
  addr("desc_unmapped", Verdict::kTaken, [](auto& a) { a.desc_user_addr = 0; });
  addr("avail_unmapped", Verdict::kTaken, [](auto& a) { a.avail_user_addr = kUser + kSize; });
  addr("used_unmapped", Verdict::kTaken, [](auto& a) { a.used_user_addr = kUser - kPage; });
  addr("desc_ends_behind_its_region", Verdict::kTaken,
       [](auto& a) { a.desc_user_addr = kUser + kSize - 16 * kRingSize + 16; });
  addr("avail_ends_behind_its_region", Verdict::kTaken,
       [](auto& a) { a.avail_user_addr = kUser + kSize - 2 * kRingSize - 2; });
  addr("used_ends_behind_its_region", Verdict::kTaken,
       [](auto& a) { a.used_user_addr = kUser + kSize - 8 * kRingSize; });
  addr("desc_wraps", Verdict::kTaken, [](auto& a) { a.desc_user_addr = ~uint64_t{15}; });
  addr("avail_wraps", Verdict::kTaken, [](auto& a) { a.avail_user_addr = ~uint64_t{1}; });
  addr("used_wraps", Verdict::kTaken, [](auto& a) { a.used_user_addr = ~uint64_t{3}; });
  return cases;
}

UniqueFd full_pipe(Arena& arena) {
  int fds[2] = {-1, -1};
  EXPECT_EQ(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  arena.keep(UniqueFd(fds[0]));
  const std::array<char, 4096> junk{};
  while (write(fds[1], junk.data(), junk.size()) > 0) {
  }
  fcntl(fds[1], F_SETFL, 0);  // blocking again: whoever writes without care hangs
  return UniqueFd(fds[1]);
}
UniqueFd pipe_end(Arena& arena, int end) {
  int fds[2] = {-1, -1};
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  arena.keep(UniqueFd(fds[1 - end]));
  return UniqueFd(fds[end]);
}
UniqueFd regular_file() { return UniqueFd(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)); }

std::vector<Case> vring_fd_cases() {
  std::vector<Case> cases;
  const std::pair<const char*, uint32_t> kinds[] = {{"kick", VHOST_USER_SET_VRING_KICK},
                                                    {"call", VHOST_USER_SET_VRING_CALL},
                                                    {"err", VHOST_USER_SET_VRING_ERR}};
  for (const auto& kind : kinds) {
    const std::string name(kind.first);
    const uint32_t request = kind.second;
    const auto add = [&, request](const std::string& what, Verdict verdict, uint64_t value,
                                  auto make_fd) {
      cases.push_back({name + "_" + what, verdict, [request, value, make_fd](Arena& arena) {
                         UniqueFd fd = make_fd(arena);
                         std::vector<int> fds;
                         if (fd) fds.push_back(arena.keep(std::move(fd)));
                         return shot(request, value, std::move(fds));
                       }});
    };
    const auto none = [](Arena&) { return UniqueFd(); };
    const auto event = [](Arena&) { return make_event(); };
    add("256_is_ring_0_without_fd", Verdict::kTaken, 256, none);
    add("257_is_ring_1_without_fd", Verdict::kTaken, 257, none);
    add("of_ring_2", Verdict::kRefused, 2, event);
    add("of_ring_255", Verdict::kRefused, 255, event);
    add("of_ring_258", Verdict::kRefused, 258, none);
    add("of_ring_65536", Verdict::kRefused, 65536, event);
    add("of_ring_65537", Verdict::kRefused, 65537, event);
    add("upper_bits", Verdict::kRefused, uint64_t{1} << 63, event);
    add("without_its_fd", Verdict::kRefused, 0, none);
    add("with_an_fd_that_it_denies", Verdict::kRefused, 256, event);
    add("regular_file", Verdict::kRefused, 0, [](Arena&) { return regular_file(); });
    add("memory_file", Verdict::kRefused, 0, [](Arena&) { return make_memory(kPage); });
    add("socket", Verdict::kRefused, 0, [](Arena&) { return std::move(make_pair().first); });
    add("directory", Verdict::kRefused, 0,
        [](Arena&) { return UniqueFd(open("/tmp", O_RDONLY | O_CLOEXEC)); });
    add("wrong_end_of_a_pipe", Verdict::kRefused, 0, [request](Arena& arena) {
      return pipe_end(arena, request == VHOST_USER_SET_VRING_KICK ? 1 : 0);
    });
    add("right_end_of_a_pipe", Verdict::kTaken, 0, [request](Arena& arena) {
      return pipe_end(arena, request == VHOST_USER_SET_VRING_KICK ? 0 : 1);
    });
    if (request != VHOST_USER_SET_VRING_KICK)
      add("full_pipe", Verdict::kTaken, 0, [](Arena& arena) { return full_pipe(arena); });
  }
  return cases;
}

Message mem_table(const std::vector<VhostUserMemoryRegion>& regions) {
  Message message = make_request(VHOST_USER_SET_MEM_TABLE, static_cast<uint32_t>(regions.size()));
  message.put(uint32_t{0});
  for (const auto& region : regions) message.put(region);
  return message;
}

std::vector<Case> memory_cases() {
  std::vector<Case> cases;
  using Regions = std::vector<VhostUserMemoryRegion>;
  const auto table = [&](const char* name, Verdict verdict, Regions regions, size_t fds) {
    cases.push_back({name, verdict, [regions, fds](Arena& arena) {
                       std::vector<int> with;
                       for (size_t i = 0; i < fds; ++i)
                         with.push_back(arena.keep(make_memory(kSize, kMemoryName)));
                       return shot(mem_table(regions), std::move(with));
                     }});
    if (verdict == Verdict::kTaken) cases.back().rings_stay = false;
  };
  const auto at = [](uint64_t guest, uint64_t size, uint64_t user, uint64_t offset) {
    return VhostUserMemoryRegion{guest, size, user, offset};
  };
  const uint64_t max = ~uint64_t{0};
  table("table_without_regions", Verdict::kTaken, {}, 0);
  table("table_missing_fd", Verdict::kRefused, {region_at(0), region_at(1)}, 1);
  table("table_surplus_fd", Verdict::kRefused, {region_at(0)}, 2);
  table("table_overlapping", Verdict::kRefused,
        {region_at(0), at(kGuest + kPage, kSize, 0x1000, 0)}, 2);
  table("table_same_region_twice", Verdict::kRefused, {region_at(0), region_at(0)}, 2);
  table("table_zero_length", Verdict::kRefused, {at(kGuest, 0, kUser, 0)}, 1);
  table("table_guest_wraps", Verdict::kRefused, {at(max - kPage, kSize, kUser, 0)}, 1);
  table("table_user_wraps", Verdict::kRefused, {at(kGuest, kSize, max - kPage, 0)}, 1);
  table("table_offset_wraps", Verdict::kRefused, {at(kGuest, kSize, kUser, max - kPage)}, 1);
  table("table_offset_plus_size_wraps", Verdict::kRefused, {at(kGuest, max, kUser, 2)}, 1);
  table("table_beyond_the_file", Verdict::kRefused, {at(kGuest, kSize + 1, kUser, 0)}, 1);
  table("table_offset_beyond_the_file", Verdict::kRefused, {at(kGuest, kSize, kUser, kPage)}, 1);
  table("table_enormous", Verdict::kRefused, {at(0, max, 0, 0)}, 1);
  table("table_one_good_one_bad", Verdict::kRefused, {region_at(0), at(0, 0, 0, 0)}, 2);
  table("table_elsewhere", Verdict::kTaken, {at(0, kSize, 0, 0)}, 1);
  for (const uint32_t count : {9U, 0xffffU, 0xffffffffU})
    cases.push_back({"table_of_" + std::to_string(count), Verdict::kRefused, [count](Arena&) {
                       Message message = make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{count});
                       return shot(message);
                     }});
  cases.push_back({"table_shorter_than_its_regions", Verdict::kRefused, [](Arena& arena) {
                     Message message = mem_table({region_at(0), region_at(1)});
                     message.payload.resize(message.payload.size() - 8);
                     return shot(message, {arena.keep(make_memory(kSize, kMemoryName)),
                                           arena.keep(make_memory(kSize, kMemoryName))});
                   }});
  const std::pair<const char*, std::function<UniqueFd(Arena&)>> wrong_files[] = {
      {"regular_file", [](Arena&) { return regular_file(); }},
      {"eventfd", [](Arena&) { return make_event(); }},
      {"pipe", [](Arena& arena) { return pipe_end(arena, 0); }},
      {"socket", [](Arena&) { return std::move(make_pair().first); }},
      {"directory", [](Arena&) { return UniqueFd(open("/dev/shm", O_RDONLY | O_CLOEXEC)); }},
      {"device", [](Arena&) { return UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC)); }},
      {"sealed", [](Arena&) {
         UniqueFd fd = make_memory(kSize, kMemoryName);
         fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE);
         return fd;
       }}};
  for (const auto& wrong : wrong_files) {
    const std::string name = wrong.first;
    const auto make_fd = wrong.second;
    cases.push_back({"table_on_a_" + name, Verdict::kRefused, [make_fd](Arena& arena) {
                       return shot(mem_table({region_at(0)}), {arena.keep(make_fd(arena))});
                     }});
    cases.push_back({"add_on_a_" + name, Verdict::kRefused, [make_fd](Arena& arena) {
                       return shot(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region_at(3)},
                                   {arena.keep(make_fd(arena))});
                     }});
  }
  const auto add = [&](const char* name, Verdict verdict, VhostUserMemoryRegion region) {
    cases.push_back({name, verdict, [region](Arena& arena) {
                       return shot(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region},
                                   {arena.keep(make_memory(kSize, kMemoryName))});
                     }});
  };
  add("add_a_second", Verdict::kTaken, region_at(1));
  add("add_the_same_again", Verdict::kTaken, region_at(0));  // QEMU does, for each queue pair
  add("add_overlapping", Verdict::kRefused, at(kGuest - kPage, kSize, 0, 0));
  add("add_zero_length", Verdict::kRefused, at(kGuest + kSize, 0, kUser, 0));
  add("add_beyond_the_file", Verdict::kRefused, at(kGuest + kSize, kSize, kUser, 1));
  add("add_wrapping", Verdict::kRefused, at(max - 1, kSize, kUser, 0));
  const auto remove = [&](const char* name, Verdict verdict, VhostUserMemoryRegion region) {
    cases.push_back(simple(name, verdict, VHOST_USER_REM_MEM_REG, VhostUserMemRegMsg{0, region}));
    cases.back().rings_stay = verdict != Verdict::kTaken;
  };
  remove("remove_under_running_rings", Verdict::kTaken, region_at(0));
  remove("remove_ignores_the_offset", Verdict::kTaken, at(kGuest, kSize, kUser, 99));
  remove("remove_what_is_not_there", Verdict::kRefused, region_at(1));
  remove("remove_with_another_size", Verdict::kRefused, at(kGuest, kSize - 1, kUser, 0));
  remove("remove_with_another_user_address", Verdict::kRefused, at(kGuest, kSize, kUser + 1, 0));
  cases.push_back({"remove_with_an_fd", Verdict::kTaken,
                   [](Arena& arena) {
                     return shot(VHOST_USER_REM_MEM_REG, VhostUserMemRegMsg{0, region_at(0)},
                                 {arena.keep(make_memory(kSize, kMemoryName))});
                   },
                   false});
  return cases;
}

VhostUserInflight inflight(uint16_t queues, uint16_t size, uint64_t bytes = 0,
                           uint64_t offset = 0) {
  VhostUserInflight told{};
  told.mmap_size = bytes;
  told.mmap_offset = offset;
  told.num_queues = queues;
  told.queue_size = size;
  return told;
}

std::vector<Case> inflight_cases() {
  std::vector<Case> cases;
  const auto get = [&](const char* name, Verdict verdict, uint16_t queues, uint16_t size) {
    cases.push_back({name, verdict, [queues, size](Arena&) {
                       return shot(VHOST_USER_GET_INFLIGHT_FD, inflight(queues, size));
                     }});
  };
  get("inflight_for_no_queues", Verdict::kEnds, 0, 64);  // CVE-2021-3839
  get("inflight_for_65535_queues", Verdict::kEnds, 65535, 64);
  get("inflight_for_queues_of_no_entries", Verdict::kEnds, 2, 0);
  get("inflight_for_queues_too_large", Verdict::kEnds, 2, 65535);
  get("inflight_in_the_middle_of_it_all", Verdict::kTaken, 2, 64);
  const auto set = [&](const char* name, Verdict verdict, const VhostUserInflight& told) {
    cases.push_back({name, verdict, [told](Arena& arena) {
                       return shot(VHOST_USER_SET_INFLIGHT_FD, told,
                                   {arena.keep(make_memory(kPage, kMemoryName))});
                     }});
  };
  // Two split queues of 64 entries are 2176 bytes.
  set("inflight_region", Verdict::kTaken, inflight(2, 64, 2176));
  set("inflight_region_of_no_queues", Verdict::kRefused, inflight(0, 64, 2176));
  set("inflight_region_of_65535_queues", Verdict::kRefused, inflight(65535, 64, 2176));
  set("inflight_region_truncated", Verdict::kRefused, inflight(2, 64, 2175));
  set("inflight_region_beyond_its_file", Verdict::kRefused, inflight(2, 256, 8320));
  set("inflight_region_behind_its_file", Verdict::kRefused, inflight(2, 64, 2176, kPage));
  set("inflight_region_that_wraps", Verdict::kRefused, inflight(2, 64, 2176, ~uint64_t{63}));
  set("inflight_region_misaligned", Verdict::kRefused, inflight(2, 64, 2176, 8));
  cases.push_back({"inflight_region_in_an_eventfd", Verdict::kRefused, [](Arena& arena) {
                     return shot(VHOST_USER_SET_INFLIGHT_FD, inflight(2, 64, 2176),
                                 {arena.keep(make_event())});
                   }});
  return cases;
}

std::vector<Case> log_cases() {
  std::vector<Case> cases;
  const uint64_t max = ~uint64_t{0};
  const auto log = [&](const char* name, Verdict verdict, uint64_t size, uint64_t offset) {
    cases.push_back({name, verdict, [size, offset](Arena& arena) {
                       return shot(VHOST_USER_SET_LOG_BASE, VhostUserLog{size, offset},
                                   {arena.keep(make_memory(kPage, kMemoryName))});
                     }});
  };
  log("log_of_size_0", Verdict::kEnds, 0, 0);
  log("log_that_wraps", Verdict::kEnds, max - 1, 2);  // CVE-2020-10722
  log("log_of_all_sizes", Verdict::kEnds, max, 0);
  log("log_offset_at_the_end_of_the_file", Verdict::kEnds, 1, kPage);
  log("log_offset_beyond_a_file", Verdict::kEnds, kPage, uint64_t{1} << 63);
  log("log_larger_than_its_file", Verdict::kEnds, kPage + 1, 0);
  log("log_too_small_for_the_memory", Verdict::kTaken, 1, 0);
  log("log_misaligned", Verdict::kTaken, 5, 3);
  const std::pair<const char*, std::function<UniqueFd(Arena&)>> wrong_files[] = {
      {"regular_file", [](Arena&) { return regular_file(); }},
      {"eventfd", [](Arena&) { return make_event(); }},
      {"socket", [](Arena&) { return std::move(make_pair().first); }},
      {"device", [](Arena&) { return UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC)); }},
      {"sealed_memory", [](Arena&) {
         UniqueFd fd = make_memory(kPage, kMemoryName);
         fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE);
         return fd;
       }}};
  for (const auto& [kind, make_fd] : wrong_files) {
    cases.push_back({std::string("log_on_a_") + kind, Verdict::kEnds, [make_fd](Arena& arena) {
                       return shot(VHOST_USER_SET_LOG_BASE, VhostUserLog{8, 0},
                                   {arena.keep(make_fd(arena))});
                     }});
    if (std::string(kind) == "eventfd") continue;
    cases.push_back(
        {std::string("log_event_is_a_") + kind, Verdict::kRefused, [make_fd](Arena& arena) {
           return shot(make_request(VHOST_USER_SET_LOG_FD), {arena.keep(make_fd(arena))});
         }});
  }
  cases.push_back({"log_event_is_a_full_pipe", Verdict::kTaken, [](Arena& arena) {
                     return shot(make_request(VHOST_USER_SET_LOG_FD),
                                 {arena.keep(full_pipe(arena))});
                   }});
  cases.push_back(simple("log_all_without_a_log", Verdict::kTaken, VHOST_USER_SET_FEATURES,
                         kAllFeatures | VHOST_F_LOG_ALL));
  return cases;
}

std::vector<Case> postcopy_cases() {
  const auto bare = [](const char* name, Verdict verdict, uint32_t request) {
    return Case{name, verdict, [request](Arena&) { return shot(make_request(request)); }};
  };
  return {
      bare("postcopy_listen_without_advice", Verdict::kRefused, VHOST_USER_POSTCOPY_LISTEN),
      bare("postcopy_end_without_beginning", Verdict::kTaken, VHOST_USER_POSTCOPY_END),
      simple("postcopy_go_without_listening", Verdict::kRefused, VHOST_USER_ADD_MEM_REG,
             uint64_t{0}),
      simple("eight_bytes_of_a_region", Verdict::kRefused, VHOST_USER_ADD_MEM_REG, uint64_t{1}),
  };
}

std::vector<Case> negotiation_cases() {
  std::vector<Case> cases;
  for (const unsigned n : {2U, 35U, 63U})
    cases.push_back(simple("feature_" + std::to_string(n), Verdict::kRefused,
                           VHOST_USER_SET_FEATURES, kAllFeatures | bit(n)));
  cases.push_back(simple("all_features", Verdict::kRefused, VHOST_USER_SET_FEATURES, ~uint64_t{0}));
  for (const unsigned n : {7U, 17U, 40U})
    cases.push_back(simple("protocol_feature_" + std::to_string(n), Verdict::kRefused,
                           VHOST_USER_SET_PROTOCOL_FEATURES,
                           BackendSession::possible_protocol_features() | bit(n)));
  cases.push_back(simple("all_protocol_features", Verdict::kRefused,
                         VHOST_USER_SET_PROTOCOL_FEATURES, ~uint64_t{0}));
  cases.push_back(simple("features_change_while_rings_run", Verdict::kTaken,
                         VHOST_USER_SET_FEATURES, VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX));
  cases.push_back(
      simple("mtu_too_large", Verdict::kRefused, VHOST_USER_NET_SET_MTU, uint64_t{1} << 40));
  cases.push_back(
      simple("status_beyond_a_byte", Verdict::kRefused, VHOST_USER_SET_STATUS, uint64_t{256}));
  const auto config = [&](const char* name, Verdict verdict, uint32_t offset, uint32_t size,
                          size_t room) {
    cases.push_back({name, verdict, [=](Arena&) {
                       Message message =
                           make_request(VHOST_USER_GET_CONFIG, VhostUserConfig{offset, size, 0});
                       message.payload.resize(sizeof(VhostUserConfig) + room);
                       return shot(message);
                     }});
  };
  config("config_257_bytes", Verdict::kEnds, 0, 257, 257);
  config("config_more_than_its_payload", Verdict::kTaken, 0, 256, 4);
  config("config_less_than_its_payload", Verdict::kTaken, 0, 4, 8);
  config("config_offset_beyond", Verdict::kTaken, 0xffffffff, 4, 4);
  config("config_offset_plus_size_wraps", Verdict::kTaken, 0xfffffffe, 4, 4);
  config("config_enormous", Verdict::kTaken, 0, 0xffffffff, 4);
  return cases;
}

std::vector<Case> device_cases() {
  std::vector<Case> cases;
  const auto set_config = [&](const char* name, Verdict verdict, VhostUserConfig head,
                              size_t room) {
    cases.push_back({name, verdict, [=](Arena& arena) {
                       arena.device.config_space.resize(16);
                       Message message = make_request(VHOST_USER_SET_CONFIG, head);
                       message.payload.resize(sizeof(VhostUserConfig) + room);
                       return shot(message);
                     }});
  };
  set_config("set_config", Verdict::kTaken, {0, 16, 0}, 16);
  set_config("set_config_nothing", Verdict::kTaken, {16, 0, 0}, 0);
  set_config("set_config_beyond", Verdict::kRefused, {15, 2, 0}, 2);
  set_config("set_config_wraps", Verdict::kRefused, {0xffffffff, 2, 0}, 2);
  set_config("set_config_more_than_it_brings", Verdict::kRefused, {0, 16, 0}, 4);
  set_config("set_config_less_than_it_brings", Verdict::kRefused, {0, 4, 0}, 16);
  set_config("set_config_unknown_flags", Verdict::kRefused, {0, 4, 2}, 4);

  cases.push_back({"reset_device_under_running_rings", Verdict::kTaken,
                   [](Arena&) { return shot(make_request(VHOST_USER_RESET_DEVICE)); }, false});
  const auto kick = [&](const char* name, Verdict verdict, uint32_t index, uint32_t num) {
    cases.push_back(simple(name, verdict, VHOST_USER_VRING_KICK, vhost_vring_state{index, num}));
  };
  kick("kick_in_band", Verdict::kTaken, 1, 0);
  kick("kick_in_band_reserved_field", Verdict::kRefused, 1, 1);
  kick("kick_in_band_of_ring_2", Verdict::kRefused, 2, 0);
  kick("kick_in_band_of_ring_65536", Verdict::kRefused, 65536, 0);
  for (const uint64_t missing :
       {VHOST_USER_PROTOCOL_F_BACKEND_REQ, VHOST_USER_PROTOCOL_F_REPLY_ACK}) {
    cases.push_back(simple("in_band_without_" + protocol_feature_names(missing).front(),
                           Verdict::kEnds, VHOST_USER_SET_PROTOCOL_FEATURES,
                           BackendSession::possible_protocol_features() & ~missing));
  }
  const auto endian = [&](const char* name, Verdict verdict, uint32_t index, uint32_t num) {
    cases.push_back(
        simple(name, verdict, VHOST_USER_SET_VRING_ENDIAN, vhost_vring_state{index, num}));
  };
  endian("endian_native", Verdict::kTaken, 0, 0);
  endian("endian_foreign", Verdict::kRefused, 0, 1);
  endian("endian_2", Verdict::kRefused, 0, 2);
  endian("endian_of_ring_2", Verdict::kRefused, 2, 0);
  endian("endian_of_ring_65536", Verdict::kRefused, 65536, 0);

  cases.push_back(simple("shared_object_unknown", Verdict::kTaken, VHOST_USER_GET_SHARED_OBJECT,
                         VhostUserShared{}));
  cases.push_back({"more_shared_memory_than_fits", Verdict::kTaken, [](Arena& arena) {
                     arena.device.shared_memory.resize(300, kPage);
                     return shot(make_request(VHOST_USER_GET_SHMEM_CONFIG));
                   }});
  // Answered with an error in the reply, as the text wants it.
  cases.push_back({"device_state_while_rings_run", Verdict::kTaken, [](Arena& arena) {
                     return shot(VHOST_USER_SET_DEVICE_STATE_FD, VhostUserTransferDeviceState{},
                                 {arena.keep(pipe_end(arena, 1))});
                   }});
  cases.push_back({"device_state_never_begun", Verdict::kTaken,
                   [](Arena&) { return shot(make_request(VHOST_USER_CHECK_DEVICE_STATE)); }});
  return cases;
}

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (auto part :
       {malformed_cases(), header_cases(), ring_cases(), vring_fd_cases(), memory_cases(),
        log_cases(), postcopy_cases(), inflight_cases(), negotiation_cases(), device_cases()})
    std::move(part.begin(), part.end(), std::back_inserter(all));
  return all;
}

class VhostMessages : public testing::TestWithParam<Case> {
 protected:
  static void play(bool acknowledged) {
    const size_t fds_before = open_fds();
    {
      Arena arena;
      for (const Shot& s : arena.start_up()) arena.fire(s);
      ASSERT_TRUE(arena.open());
      ASSERT_EQ(arena.device.running.size(), 2U);
      Shot bad = GetParam().make(arena);
      if (acknowledged && bad.bytes.size() >= 12)
        bad.bytes[4] |= std::byte{VHOST_USER_NEED_REPLY_MASK};
      (void)arena.replies();
      const auto before = arena.device.running;
      arena.fire(bad);
      judge(arena, acknowledged, before);
      arena.hang_up();
      EXPECT_FALSE(arena.open());
      EXPECT_TRUE(arena.device.running.empty());
    }
    EXPECT_EQ(mappings_of(kMemoryName), 0U);
    EXPECT_EQ(open_fds(), fds_before);
  }

  static const ring::SplitLayout& split(const RingStart& ring) {
    return std::get<ring::SplitLayout>(ring.layout);
  }

  static void judge(Arena& arena, bool acknowledged, const std::map<uint16_t, RingStart>& before) {
    const Verdict verdict = GetParam().verdict;
    if (verdict == Verdict::kTaken) {
      ASSERT_TRUE(arena.open()) << arena.closed->what;
      if (GetParam().rings_stay) {
        EXPECT_EQ(arena.device.running.size(), 2U);
      }
    } else if (verdict == Verdict::kRefused && acknowledged) {
      ASSERT_TRUE(arena.open()) << arena.closed->what;
      const auto reply = arena.replies();
      ASSERT_EQ(reply.size(), 20U);
      EXPECT_NE(reply[12], std::byte{0});
      EXPECT_FALSE(arena.state().last_problem.empty());
      EXPECT_EQ(arena.device.running.size(), 2U);
      for (const auto& [index, ring] : before) {
        EXPECT_EQ(arena.device.running[index].memory, ring.memory) << "disturbed";
        EXPECT_EQ(split(arena.device.running[index]).desc, split(ring).desc);
        EXPECT_EQ(arena.device.running[index].controls.call, ring.controls.call);
        EXPECT_EQ(arena.device.running[index].controls.kick, ring.controls.kick);
      }
    } else {
      ASSERT_FALSE(arena.open());
      EXPECT_FALSE(arena.closed->what.empty());
      return;
    }
    arena.fire(shot(make_request(VHOST_USER_GET_FEATURES)));
    EXPECT_GE(arena.replies().size(), 20U) << "the connection goes on";
  }
};

TEST_P(VhostMessages, FromAFrontEndThatAsksForAcknowledgement) { play(true); }
TEST_P(VhostMessages, FromAFrontEndThatDoesNot) { play(false); }

INSTANTIATE_TEST_SUITE_P(BadInputs, VhostMessages, testing::ValuesIn(all_cases()),
                         [](const auto& played) { return played.param.name; });

// Requests of features that were not negotiated, each as the text has it otherwise.
TEST(VhostSession, RequestsOfFeaturesNotNegotiated) {
  for (const RequestRule& rule : request_rules()) {
    if (rule.protocol_features == 0 && rule.features == 0) continue;
    const size_t fds_before = open_fds();
    {
      Arena arena(0);
      arena.device.offering.protocol_features = 0;
      arena.fire(shot(make_request(VHOST_USER_SET_OWNER)));
      Message message = make_request(rule.request);
      message.payload.resize(rule.min_payload);
      std::vector<int> fds;
      const bool socket = rule.request == VHOST_USER_SET_BACKEND_REQ_FD;
      for (uint32_t i = 0; i < rule.min_fds; ++i) {
        fds.push_back(arena.keep(socket ? make_pair().first : make_event()));
      }
      const bool offered = (rule.protocol_features & ~BackendSession::kProtocolFeatures) == 0 &&
                           rule.features == 0 && rule.offer_suffices;
      arena.fire(shot(message, std::move(fds)));
      EXPECT_EQ(arena.open(), offered) << rule.name;
    }
    EXPECT_EQ(open_fds(), fds_before) << rule.name;
  }
}

TEST(VhostSession, HangUpInEveryStateAndAtEveryByte) {
  size_t steps = 0;
  {
    Arena arena;
    steps = arena.start_up().size();
  }
  const size_t fds_before = open_fds();
  for (size_t step = 0; step <= steps; ++step) {
    for (const size_t bytes : {size_t{0}, size_t{1}, size_t{11}, size_t{12}, size_t{13}}) {
      {
        Arena arena;
        const auto shots = arena.start_up();
        for (size_t i = 0; i < step; ++i) arena.fire(shots[i]);
        if (step < steps && bytes > 0) {
          Shot part = shots[step];
          part.bytes.resize(std::min(bytes, part.bytes.size()));
          arena.fire(part);
        }
        arena.hang_up();
        ASSERT_FALSE(arena.open()) << "step " << step;
        ASSERT_EQ(arena.closed->code, ErrorCode::kDisconnected);
      }
      ASSERT_EQ(open_fds(), fds_before) << "step " << step << ", " << bytes << " bytes";
      ASSERT_EQ(mappings_of(kMemoryName), 0U) << "step " << step;
    }
  }
}

TEST(VhostSession, EverythingByteByByte) {
  Arena arena;
  for (const Shot& whole : arena.start_up()) {
    for (size_t i = 0; i < whole.bytes.size(); ++i)
      arena.fire({{whole.bytes[i]}, i == 0 ? whole.fds : std::vector<int>{}});
  }
  ASSERT_TRUE(arena.open());
  EXPECT_EQ(arena.device.running.size(), 2U);
}

TEST(VhostSession, MessagesInAnyOrder) {
  const size_t fds_before = open_fds();
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::minstd_rand random(seed);
    Arena arena;
    auto shots = arena.start_up();
    shots.push_back(shot(VHOST_USER_GET_VRING_BASE, vhost_vring_state{0, 0}));
    shots.push_back(shot(VHOST_USER_GET_VRING_BASE, vhost_vring_state{1, 0}));
    shots.push_back(shot(VHOST_USER_REM_MEM_REG, VhostUserMemRegMsg{0, region_at(0)}));
    shots.push_back(shot(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{1, 0}));
    shots.push_back(shot(VHOST_USER_SET_FEATURES, VIRTIO_F_VERSION_1));
    shots.push_back(shot(make_request(VHOST_USER_RESET_OWNER)));
    shots.push_back(shot(VHOST_USER_SET_STATUS, uint64_t{0}));
    shots.push_back(shot(make_request(VHOST_USER_RESET_DEVICE)));
    shots.push_back(shot(VHOST_USER_SET_DEVICE_STATE_FD, VhostUserTransferDeviceState{},
                         {arena.keep(pipe_end(arena, 1))}));
    shots.push_back(shot(make_request(VHOST_USER_CHECK_DEVICE_STATE)));
    for (auto& s : shots) s.bytes[4] |= std::byte{VHOST_USER_NEED_REPLY_MASK};
    arena.fire(
        shot(VHOST_USER_SET_PROTOCOL_FEATURES, BackendSession::possible_protocol_features()));
    for (int i = 0; i < 100 && arena.open(); ++i) {
      arena.fire(shots[random() % shots.size()]);
      (void)arena.replies();
    }
    ASSERT_TRUE(arena.open()) << "seed " << seed << ": " << arena.closed->what;
  }
  EXPECT_EQ(open_fds(), fds_before);
  EXPECT_EQ(mappings_of(kMemoryName), 0U);
}

TEST(VhostSession, AFileCutShortWhileItsRingsRun) {
  Arena arena;
  auto shots = arena.start_up();
  for (const Shot& s : shots) arena.fire(s);
  const int memory = shots[3].fds.at(0);
  ASSERT_EQ(ftruncate(memory, 0), 0);
  // The device looks at its rings when it stops them: zeros now, and the loss is known.
  const auto held = arena.device.running[0].memory;
  arena.fire(shot(VHOST_USER_GET_VRING_BASE, vhost_vring_state{0, 0}));
  EXPECT_TRUE(arena.open());
  EXPECT_TRUE(held->faulted());
}

// A front end that neither reads nor writes the channel of a device's state, and keeps its end
// blocking: the loop goes on, and the session can be taken down in the middle.
TEST(VhostSession, AStateThatNobodyTransfers) {
  const size_t fds_before = open_fds();
  for (const uint32_t direction : {0U, 1U}) {
    Arena arena;
    arena.device.state.resize(1'000'000);
    arena.fire(arena.start_up()[1]);
    arena.fire(shot(VHOST_USER_SET_DEVICE_STATE_FD, VhostUserTransferDeviceState{direction, 0},
                    {arena.keep(pipe_end(arena, direction == 0 ? 1 : 0))}));
    ASSERT_EQ(arena.replies().size(), 20U);
    arena.fire(shot(make_request(VHOST_USER_GET_FEATURES)));
    EXPECT_EQ(arena.replies().size(), 20U) << "the session goes on meanwhile";
    arena.fire(shot(VHOST_USER_SET_DEVICE_STATE_FD, VhostUserTransferDeviceState{direction, 0},
                    {arena.keep(pipe_end(arena, direction == 0 ? 1 : 0))}));
    EXPECT_TRUE(arena.open());
  }
  EXPECT_EQ(open_fds(), fds_before);
}

TEST(VhostSession, SlotsAreBounded) {
  Arena arena;
  for (const Shot& s : arena.start_up()) arena.fire(s);
  const int memory = arena.keep(make_memory(kSize, kMemoryName));
  for (uint64_t i = 1; i < 600 && arena.open(); ++i)
    arena.fire(shot(VHOST_USER_ADD_MEM_REG, VhostUserMemRegMsg{0, region_at(i)}, {memory}));
  ASSERT_FALSE(arena.open());
  EXPECT_EQ(arena.closed->what, "ADD_MEM_REG: all 509 memory slots are in use");
  EXPECT_EQ(mappings_of(kMemoryName), 0U);
}

}  // namespace
}  // namespace pollux::vhost
