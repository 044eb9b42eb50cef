// SPDX-License-Identifier: Apache-2.0
// A front end that talks to a vhost-user port's device over real sockets, with real descriptors:
// whatever it is told to say, and what it answers. Everything in one thread, the loop's.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "pollux/base/event_loop.hpp"
#include "pollux/base/fd_passing.hpp"
#include "pollux/ports/vhost_user/control_parcel.hpp"
#include "pollux/ports/vhost_user/device.hpp"
#include "pollux/vhost/backend_connection.hpp"
#include "tests/support/lying_driver.hpp"
#include "tests/support/lying_terms.hpp"
#include "tests/support/send_raw.hpp"

namespace pollux::liar {

class FrontEnd {
 public:
  FrontEnd(EventLoop& loop, const Descriptors& fds, unsigned which, vhost_user::NetDevice& device)
      : loop_(loop), fds_(fds), which_(which), memory_(fds.memory(which)), device_(device) {}

  [[nodiscard]] bool open() const { return open_; }
  [[nodiscard]] const Terms& terms() const { return terms_; }
  [[nodiscard]] const Counts& counts() const { return counts_; }
  [[nodiscard]] const GuestMemory& memory() const { return memory_; }
  [[nodiscard]] RingDriver& ring(size_t i) { return drivers_[i % drivers_.size()]; }
  /// The device's address of a byte of the memory.
  [[nodiscard]] uint64_t address(uint64_t offset) const { return base() + offset; }
  [[nodiscard]] uint64_t base() const { return terms_.iommu ? kIova : kGuest; }

  /// A connection on which all was said that lets rings run, with a driver that begins anew.
  void connect(const Terms& terms) {
    hang_up();
    terms_ = terms;
    drivers_.clear();
    for (uint32_t i = 0; i < terms_.rings(); ++i) {
      drivers_.emplace_back(memory_, i, terms_.packed, ring_size(), base());
    }
    if (terms_.inflight) clear_region();
    begin(false, false);
    for (size_t i = 0; i < 8 && terms_.ready; ++i) {
      const Piece buffer{address(kMemory - (i + 1) * kPage / 2), kPage / 2};
      (void)drivers_[0].offer({&buffer, 1}, true, false, std::nullopt);
    }
    look_after();
  }

  /// The same with rings as a back end before has left them, and a front end that `knows` where, or
  /// leaves that to the in-flight region. `compare`: what is written to the dirty log.
  void resume(bool knows, bool compare) {
    hang_up();
    begin(knows, compare);
    look_after();
    end_logged();
    counts_.resumed += drivers_.size();
  }

  /// The session goes to another process that has the same device, or, if that one never says `go`,
  /// on in this one. `must`: nothing that the front end has done can be in the way.
  void hand_over(bool go, bool must) {
    if (!open_ || !connection_->can_hand_over()) return;
    const size_t ran = rings_that_run();
    nlohmann::json values;
    FdParcel given;
    if (!connection_->save(values, given)) return;
    if (!go) return connection_->resume();
    std::vector<UniqueFd> fds;
    for (const int fd : given.lent()) fds.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    FdParcel taken(std::move(fds));
    const auto control = vhost_user::pack_control(device_.control_state());
    connection_.reset();
    device_.begin_adoption(vhost_user::unpack_control(control));
    auto made = vhost::BackendConnection::adopt(loop_, values, taken, device_, {}, when_closed());
    device_.end_adoption();
    open_ = made.has_value();
    require(open_ || !must, "a session that could not be taken over");
    if (!open_) return hang_up();
    connection_ = std::move(*made);
    require(!must || rings_that_run() == ran, "a ring that was lost when it was taken over");
    ++counts_.handed_over;
  }

  void hang_up() {
    connection_.reset();
    far_.reset();
    back_.reset();
    open_ = false;
  }

  /// The in-flight region that is this guest's, half of its file.
  [[nodiscard]] spec::VhostUserInflight region() const {
    const auto format =
        terms_.packed ? vhost::InflightFormat::kPacked : vhost::InflightFormat::kSplit;
    spec::VhostUserInflight told{};
    told.num_queues = kRings + 1;
    told.queue_size = 64;
    told.mmap_size = told.num_queues * vhost::InflightRegion::queue_bytes(told.queue_size, format);
    told.mmap_offset = which_ * kMemory / 2;
    return told;
  }
  [[nodiscard]] GuestMemory region_memory() const { return GuestMemory(fds_.inflight()); }
  void give_region(const spec::VhostUserInflight& told, int fd) {
    ++counts_.regions;
    (void)say(vhost::make_request(spec::VHOST_USER_SET_INFLIGHT_FD, told), {fd});
  }
  /// Whether the region says that nothing is in flight.
  [[nodiscard]] bool region_at_rest() const {
    const spec::VhostUserInflight told = region();
    const size_t head =
        terms_.packed ? sizeof(spec::QueueRegionPacked) : sizeof(spec::QueueRegionSplit);
    const size_t entry =
        terms_.packed ? sizeof(spec::DescStatePacked) : sizeof(spec::DescStateSplit);
    const std::vector<std::byte> bytes = region_memory().all();
    for (size_t i = 0; i < size_t{told.num_queues} * told.queue_size; ++i) {
      const size_t queue = i / told.queue_size * (told.mmap_size / told.num_queues);
      if (bytes[told.mmap_offset + queue + head + i % told.queue_size * entry] != std::byte{0}) {
        return false;
      }
    }
    return true;
  }
  /// A region of the back end's own making, or none.
  [[nodiscard]] UniqueFd ask_region(spec::VhostUserInflight& told) {
    if (!open_) return {};
    hold_ = true;
    (void)say(vhost::make_request(spec::VHOST_USER_GET_INFLIGHT_FD, told));
    hold_ = false;
    send_held();
    connection_->poll();
    std::array<std::byte, sizeof(spec::VhostUserHeader) + sizeof told> reply{};
    FdControl control;
    iovec piece{reply.data(), reply.size()};
    msghdr msg{};
    msg.msg_iov = &piece;
    msg.msg_iovlen = 1;
    msg.msg_control = control.bytes.data();
    msg.msg_controllen = control.bytes.size();
    const ssize_t got = recvmsg(far_.get(), &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0) return {};
    std::vector<UniqueFd> fds = take_fds(msg);
    if (fds.empty() || got != static_cast<ssize_t>(reply.size())) return {};
    std::memcpy(&told, reply.data() + sizeof(spec::VhostUserHeader), sizeof told);
    return std::move(fds.front());
  }

  /// Says a message, and reads what is said to it.
  std::vector<std::byte> say(const vhost::Message& message, const std::vector<int>& fds = {}) {
    const spec::VhostUserHeader header{message.request, message.flags,
                                       static_cast<uint32_t>(message.payload.size())};
    std::vector<std::byte> bytes(sizeof header);
    std::memcpy(bytes.data(), &header, sizeof header);
    bytes.insert(bytes.end(), message.payload.begin(), message.payload.end());
    return say_raw(bytes, fds);
  }
  std::vector<std::byte> say_raw(std::span<const std::byte> bytes, const std::vector<int>& fds) {
    if (!open_) return {};
    ++counts_.messages;
    if (hold_ && fds.empty()) {
      held_.insert(held_.end(), bytes.begin(), bytes.end());
      return {};
    }
    send_held();
    (void)test::send_raw(far_.get(), bytes, fds);
    return hold_ ? std::vector<std::byte>() : hear();
  }

  /// Events of the loop that are due, misses of the IOMMU among them.
  void look_after() {
    spin();
    if (terms_.oblige) answer(0);
    if (!open_ || !connection_->session().memory()) return;
    // As the port does it.
    const auto& log = connection_->session().dirty_log();
    if (connection_->session().memory()->faulted() || (log && log->faulted())) {
      connection_->close(Error{ErrorCode::kProtocol, 0, "its file was cut short"});
    }
  }

  /// Answers what the back end asked: 0 well, 1 in place of an answer with a refusal, 2 not at all,
  /// else with these bytes.
  void answer(unsigned how, std::span<const std::byte> bytes = {}) {
    for (int round = 0; round < 4 && back_ && open_; ++round) {
      const std::vector<std::byte> asked = receive(back_.get());
      constexpr size_t kHead = sizeof(spec::VhostUserHeader);
      if (how > 2) (void)test::send_raw(back_.get(), bytes);
      for (size_t at = 0; at + kHead <= asked.size() && how < 2;) {
        spec::VhostUserHeader header{};
        std::memcpy(&header, asked.data() + at, kHead);
        answer_one(header, std::span(asked).subspan(at + kHead), how);
        at += kHead + header.size;
      }
      spin();
      if (asked.empty()) return;
    }
  }

  void map(uint64_t iova, uint64_t size, uint64_t user, uint8_t perm, uint8_t type) {
    ++counts_.mappings;
    const spec::vhost_iotlb_msg message{iova, size, user, perm, type, {}};
    (void)say(vhost::make_request(spec::VHOST_USER_IOTLB_MSG, message));
  }

  /// Starts a ring of which everything else is known.
  void kick_off(uint32_t ring) {
    using namespace spec;
    if (terms_.in_band) {
      (void)say(vhost::make_request(VHOST_USER_VRING_KICK, vhost_vring_state{ring, 0}));
    } else {
      (void)say(vhost::make_request(VHOST_USER_SET_VRING_KICK, uint64_t{ring}), {fds_.kick()});
    }
  }

  /// Stops a ring and starts it where it was.
  void bounce(uint32_t ring) {
    const auto reply =
        say(vhost::make_request(spec::VHOST_USER_GET_VRING_BASE, spec::vhost_vring_state{ring, 0}));
    spec::vhost_vring_state state{};
    if (reply.size() < sizeof(spec::VhostUserHeader) + sizeof state) return;
    std::memcpy(&state, reply.data() + sizeof(spec::VhostUserHeader), sizeof state);
    (void)say(vhost::make_request(spec::VHOST_USER_SET_VRING_BASE, state));
    kick_off(ring);
    ++counts_.restarts;
  }

  /// The features that were negotiated, with logging or without.
  void set_features(bool logged) {
    terms_.logged = logged;
    (void)say(
        vhost::make_request(spec::VHOST_USER_SET_FEATURES,
                            terms_.features | (logged ? spec::VHOST_F_LOG_ALL : uint64_t{0})));
  }
  void give_log(uint64_t size, uint64_t offset) {
    log_size_ = size;
    log_offset_ = offset;
    (void)say(vhost::make_request(spec::VHOST_USER_SET_LOG_BASE, spec::VhostUserLog{size, offset}),
              {fds_.log()});
  }

  /// Around turns in which nobody but the device writes: what changed must be in the log.
  void begin_logged() {
    before_.clear();
    if (!open_ || !terms_.logged || log_size_ != kPage) return;
    before_ = memory_.all();
    const std::array<std::byte, kPage> zeros{};
    GuestMemory(fds_.log()).put(log_offset_, zeros.data(), zeros.size());
  }
  void end_logged() {
    const std::vector<std::byte> before = std::exchange(before_, {});
    if (before.empty() || !open_) return;
    ++counts_.logged;
    const std::vector<std::byte> after = memory_.all();
    for (size_t page = 0; page < kMemory / kPage; ++page) {
      const size_t at = page * kPage;
      if (std::memcmp(before.data() + at, after.data() + at, kPage) == 0) continue;
      const size_t bit = kGuest / kPage + page;
      const auto marks = GuestMemory(fds_.log()).get<uint8_t>(log_offset_ + bit / 8);
      require((marks >> bit % 8 & 1) != 0, "a page was written that is not in the dirty log");
    }
  }

  [[nodiscard]] spec::vhost_vring_addr addresses(uint32_t ring) const {
    const uint64_t page = uint64_t{ring} * kPage;
    const uint64_t at = (terms_.iommu ? kIova : kUser) + page;
    return {ring,         spec::VHOST_VRING_F_LOG, at,
            at + kUsedAt, at + kAvailAt,           kGuest + page + kUsedAt};
  }

 private:
  [[nodiscard]] uint32_t ring_size() const { return terms_.packed && terms_.odd_size ? 53 : 64; }

  vhost::BackendConnection::Closed when_closed() {
    return [this](const Error& error) {
      require(!error.what.empty(), "no sentence");
      open_ = false;
      ++counts_.ended;
    };
  }
  [[nodiscard]] size_t rings_that_run() const {
    const auto& vrings = connection_->session().state().vrings;
    return static_cast<size_t>(
        std::ranges::count_if(vrings, [](const auto& vring) { return vring.started; }));
  }

  void begin(bool knows, bool compare) {
    int fds[2] = {-1, -1};
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0,
            "no sockets");
    far_ = UniqueFd(fds[1]);
    auto made =
        vhost::BackendConnection::create(loop_, UniqueFd(fds[0]), device_, {}, when_closed());
    require(made.has_value(), "no connection");
    connection_ = std::move(*made);
    open_ = true;
    hold_ = true;  // all in one go, which is a third of the calls
    negotiate();
    if (compare) begin_logged();
    start_rings(knows);
    hold_ = false;
    send_held();
    (void)hear();
  }

  void clear_region() const {
    const std::vector<std::byte> zeros(kMemory / 2);
    region_memory().put(region().mmap_offset, zeros.data(), zeros.size());
  }

  void negotiate() {
    using namespace spec;
    static const uint64_t possible = vhost::BackendSession::possible_protocol_features();
    uint64_t protocol = possible & ~(VHOST_USER_PROTOCOL_F_CONFIG | VHOST_USER_PROTOCOL_F_SHMEM);
    if (!terms_.in_band) protocol &= ~VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS;
    (void)say(vhost::make_request(VHOST_USER_SET_OWNER));
    (void)say(vhost::make_request(VHOST_USER_SET_PROTOCOL_FEATURES, protocol));
    set_features(terms_.logged);
    int fds[2] = {-1, -1};
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0,
            "no sockets");
    const UniqueFd near(fds[0]);
    back_ = UniqueFd(fds[1]);
    (void)say(vhost::make_request(VHOST_USER_SET_BACKEND_REQ_FD), {near.get()});
    vhost::Message table = vhost::make_request(VHOST_USER_SET_MEM_TABLE, uint64_t{1});
    table.put(VhostUserMemoryRegion{kGuest, kMemory, kUser, 0});
    (void)say(table, {fds_.memory(which_)});
    if (terms_.logged) give_log(kPage, which_ * kPage);
    if (terms_.inflight) give_region(region(), fds_.inflight());
  }

  void start_rings(bool knows) {
    using namespace spec;
    for (uint32_t i = 0; i < terms_.rings(); ++i) {
      const uint32_t base = knows ? drivers_[i].used() : terms_.packed ? 0x80008000U : 0U;
      (void)say(vhost::make_request(VHOST_USER_SET_VRING_NUM, vhost_vring_state{i, ring_size()}));
      (void)say(vhost::make_request(VHOST_USER_SET_VRING_BASE, vhost_vring_state{i, base}));
      (void)say(vhost::make_request(VHOST_USER_SET_VRING_ADDR, addresses(i)));
      if (!terms_.in_band) {
        (void)say(vhost::make_request(VHOST_USER_SET_VRING_CALL, uint64_t{i}), {fds_.call()});
      }
      kick_off(i);
      (void)say(vhost::make_request(VHOST_USER_SET_VRING_ENABLE, vhost_vring_state{i, 1}));
    }
  }

  void send_held() {
    const std::vector<std::byte> bytes = std::exchange(held_, {});
    if (!bytes.empty()) (void)test::send_raw(far_.get(), bytes);
  }

  /// Lets the back end read what was said; what it replies.
  std::vector<std::byte> hear() {
    connection_->poll();
    return receive(far_.get());
  }

  void answer_one(const spec::VhostUserHeader& header, std::span<const std::byte> payload,
                  unsigned how) {
    spec::vhost_iotlb_msg miss{};
    if (header.request == spec::VHOST_USER_BACKEND_IOTLB_MSG && payload.size() >= sizeof miss) {
      std::memcpy(&miss, payload.data(), sizeof miss);
      const uint64_t page = (miss.iova - kIova) & ~uint64_t{kPage - 1};
      if (how == 0 && page < kMemory) {
        map(kIova + page, kPage, kUser + page, spec::VHOST_ACCESS_RW, spec::VHOST_IOTLB_UPDATE);
      } else {
        how = 1;
      }
    }
    if ((header.flags & spec::VHOST_USER_NEED_REPLY_MASK) == 0) return;
    const spec::VhostUserHeader head{header.request,
                                     spec::VHOST_USER_VERSION | spec::VHOST_USER_REPLY_MASK, 8};
    std::array<std::byte, sizeof head + 8> reply{};
    std::memcpy(reply.data(), &head, sizeof head);
    reply[sizeof head] = static_cast<std::byte>(how);
    (void)test::send_raw(back_.get(), reply);
  }

  static std::vector<std::byte> receive(int socket) {
    std::vector<std::byte> all;
    std::array<std::byte, 4096> part;
    for (ssize_t got = 0; (got = recv(socket, part.data(), part.size(), MSG_DONTWAIT)) > 0;) {
      all.insert(all.end(), part.begin(), part.begin() + got);
    }
    return all;
  }
  void spin() {
    for (int n = 0; n < 8 && *loop_.run_once(Nanos(0)); ++n) {
    }
  }

  EventLoop& loop_;
  const Descriptors& fds_;
  unsigned which_;
  GuestMemory memory_;
  vhost_user::NetDevice& device_;
  Terms terms_;
  Counts counts_;
  std::vector<RingDriver> drivers_;
  UniqueFd far_;   // of the connection
  UniqueFd back_;  // of the channel
  bool open_ = false;
  bool hold_ = false;  // say without waiting to be heard
  std::vector<std::byte> held_;
  uint64_t log_size_ = 0;
  uint64_t log_offset_ = 0;
  std::vector<std::byte> before_;  // the memory, when the turns began; empty: not compared
  std::unique_ptr<vhost::BackendConnection> connection_;
};

}  // namespace pollux::liar
