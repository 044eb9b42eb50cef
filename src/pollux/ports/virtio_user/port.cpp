// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/virtio_user/port.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pollux/packet/tx_offloads.hpp"
#include "pollux/ports/virtio_user/queues.hpp"
#include "pollux/ports/virtio_user/session.hpp"
#include "pollux/spec/vhost_user.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/vhost/path_watch.hpp"
#include "pollux/vhost/request_table.hpp"
#include "pollux/vhost/unix_socket.hpp"
#include "pollux/virtio/feature_names.hpp"

namespace pollux {
namespace {

using std::chrono::milliseconds;
using virtio_user::RxSlot;
using virtio_user::Session;
using virtio_user::TxSlot;

constexpr auto kFirstRetry = milliseconds(1);
constexpr auto kLastRetry = milliseconds(200);
constexpr auto kWatchPeriod = milliseconds(100);
constexpr auto kReplyTimeout = std::chrono::seconds(5);
constexpr auto kQuiescenceDeadline = std::chrono::seconds(2);

/// What is worth a word when a back end does not have it.
constexpr uint64_t kWishes = spec::VIRTIO_F_RING_PACKED | spec::VIRTIO_F_IN_ORDER;

constexpr std::array kKeys{
    PortKey{"queues", "queue pairs, 1 to 128; fewer if the back end has fewer (1)"},
    PortKey{"queue-size", "entries of each ring, 2 to 32768, of split ones a power of two (1024)"},
    PortKey{"server", "on: listen on the socket; off: connect to it, for ever (off)"},
    PortKey{"mrg", "use mergeable receive buffers (on)"},
    PortKey{"indirect", "use indirect descriptors (on)"},
    PortKey{"event-idx", "use event indices (on)"},
    PortKey{"csum", "use checksum offload (on)"},
    PortKey{"tso", "use TCP segmentation offload (on)"},
    PortKey{"gro", "join small TCP segments for a back end that takes large ones (on)"},
    PortKey{"ufo", "use UDP fragmentation offload (on)"},
    PortKey{"uso", "use UDP segmentation offload (on)"},
    PortKey{"version-1", "use VIRTIO 1.0 and later; off: the legacy layout (on)"},
    PortKey{"packed", "packed rings; on: if the back end has them, only: or nothing (off)"},
    PortKey{"in-order", "buffers used in order; on: if the back end does, only: or nothing (off)"},
    PortKey{"ctrl-queue", "say by a control queue what is wanted; on, only: as above (off)"},
    PortKey{"mac", "the address of this side, e.g. 52:54:00:00:00:01 (none)"},
    PortKey{"mtu", "tell the back end this MTU, 68 to 65535 (nothing)"},
    PortKey{"regions", "share the packet buffers as so many memory regions, 1 to 500 (1)"},
};

struct Config {
  std::string path;
  bool server = false;
  bool gro = true;
  virtio_user::SessionConfig session;
};

uint64_t wanted_features(SpecReader& read) {
  using namespace spec;
  uint64_t features = VIRTIO_F_ANY_LAYOUT | VIRTIO_NET_F_MQ | VIRTIO_NET_F_MAC |
                      VIRTIO_NET_F_STATUS | VIRTIO_NET_F_MTU | VIRTIO_NET_F_GUEST_HDRLEN;
  if (read.get_bool("version-1", true)) features |= VIRTIO_F_VERSION_1;
  if (read.get_bool("mrg", true)) features |= VIRTIO_NET_F_MRG_RXBUF;
  if (read.get_bool("indirect", true)) features |= VIRTIO_F_INDIRECT_DESC;
  if (read.get_bool("event-idx", true)) features |= VIRTIO_F_EVENT_IDX;
  if (read.get_bool("csum", true)) features |= VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM;
  if (read.get_bool("tso", true)) {
    features |= VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_ECN |
                VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN;
  }
  if (read.get_bool("ufo", true)) features |= VIRTIO_NET_F_HOST_UFO | VIRTIO_NET_F_GUEST_UFO;
  if (read.get_bool("uso", true)) {
    features |= VIRTIO_NET_F_HOST_USO | VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6;
  }
  return features;
}

/// A feature that is off, wanted or insisted on.
void read_wish(SpecReader& read, std::string_view key, uint64_t feature,
               virtio_user::SessionConfig& session) {
  const size_t wish = read.get_choice(key, {"off", "on", "only"}, 0);
  if (wish >= 1) session.features |= feature;
  if (wish == 2) session.required |= feature;
}

Result<Config> read_config(const PortSpec& spec) {
  SpecReader read(spec);
  read.require_target("the path of a socket, e.g. virtio-user:/run/v0.sock");
  Config config;
  config.path = spec.target;
  config.server = read.get_bool("server", false);
  config.gro = read.get_bool("gro", true);
  config.session.mac = read.get_mac("mac");
  auto& session = config.session;
  session.queue_pairs = static_cast<uint16_t>(read.get_u32("queues", {.min = 1, .max = 128}, 1));
  session.features = wanted_features(read);
  read_wish(read, "packed", spec::VIRTIO_F_RING_PACKED, session);
  read_wish(read, "in-order", spec::VIRTIO_F_IN_ORDER, session);
  read_wish(read, "ctrl-queue", spec::VIRTIO_NET_F_CTRL_VQ, session);
  session.features |= spec::VIRTIO_NET_F_CTRL_RX | spec::VIRTIO_NET_F_CTRL_MAC_ADDR;
  const bool packed = (session.features & spec::VIRTIO_F_RING_PACKED) != 0;
  static_assert(spec::kMaxPackedQueueSize == spec::kMaxSplitQueueSize);
  session.queue_size = read.get_u32(
      "queue-size", {.min = 2, .max = spec::kMaxSplitQueueSize, .power_of_two = !packed}, 1024);
  session.pool_regions = read.get_u32("regions", {.min = 1, .max = 500}, 1);
  session.mtu = static_cast<uint16_t>(read.get_u32("mtu", {.min = 68, .max = 65535}, 0));
  if ((session.features & spec::VIRTIO_F_VERSION_1) == 0 &&
      (session.features & (spec::VIRTIO_F_RING_PACKED | spec::VIRTIO_F_IN_ORDER)) != 0) {
    read.fail_with("packed and in-order need version-1=on");
  }
  if (auto ok = read.finish(); !ok) return forward(ok);
  return config;
}

/// What the back end takes undone, from the features that were negotiated. `join`: what it takes
/// large may be joined.
uint32_t tx_offloads(uint64_t features, bool join) {
  using namespace spec;
  uint32_t bits = 0;
  if ((features & VIRTIO_NET_F_CSUM) != 0) bits |= kTxChecksum;
  if ((features & VIRTIO_NET_F_HOST_TSO4) != 0) bits |= kTxTso4;
  if ((features & VIRTIO_NET_F_HOST_TSO6) != 0) bits |= kTxTso6;
  if ((features & VIRTIO_NET_F_HOST_ECN) != 0) bits |= kTxTsoEcn;
  if ((features & VIRTIO_NET_F_HOST_UFO) != 0) bits |= kTxUfo;
  if ((features & VIRTIO_NET_F_HOST_USO) != 0) bits |= kTxUso4 | kTxUso6;
  if (join && (bits & kTxChecksum) != 0 && (bits & (kTxTso4 | kTxTso6)) != 0) bits |= kTxJoin;
  return bits;
}

/// What the back end sends large, likewise; see RxQueue::large.
uint32_t sent_large(uint64_t features) {
  uint32_t bits = 0;
  if ((features & spec::VIRTIO_NET_F_GUEST_TSO4) != 0) bits |= kTxTso4;
  if ((features & spec::VIRTIO_NET_F_GUEST_TSO6) != 0) bits |= kTxTso6;
  return bits;
}

/// For people: "packed in-order".
std::string ring_format(uint64_t features) {
  const bool packed = (features & spec::VIRTIO_F_RING_PACKED) != 0;
  const bool in_order = (features & spec::VIRTIO_F_IN_ORDER) != 0;
  return fmt::format("{}{}", packed ? "packed" : "split", in_order ? " in-order" : "");
}

class VirtioUserPort final : public Port {
 public:
  VirtioUserPort(Config config, const PortContext& context)
      : config_(std::move(config)),
        context_(context),
        rx_(config_.session.queue_pairs),
        tx_(config_.session.queue_pairs) {
    for (RxSlot& slot : rx_) slot.large = &sends_large_;
    for (TxSlot& slot : tx_) slot.offloads = &offloads_;
  }
  ~VirtioUserPort() override { VirtioUserPort::stop(); }

  Status start() override;
  void stop() noexcept override;
  PortInfo info() const override;

  std::vector<RxQueue> rx_queues() override {
    std::vector<RxQueue> handles;
    for (RxSlot& slot : rx_) handles.push_back(slot.handle());
    return handles;
  }
  std::vector<TxQueue> tx_queues() override {
    std::vector<TxQueue> handles;
    for (TxSlot& slot : tx_) handles.push_back(slot.handle());
    return handles;
  }

 private:
  /// What the port's thread tells info(). Plain values, under state_lock_.
  struct State {
    explicit State(std::string what) : text(std::move(what)) {}
    std::string text;
    bool up = false;
    std::string peer;
    std::string broken;
    std::string memory;
    uint64_t features = 0;
    uint64_t protocol_features = 0;
    size_t queue_pairs = 0;
    uint32_t queue_size = 0;
    std::string format;
  };

  // The port's thread.
  void run();
  [[nodiscard]] Result<vhost::Frontend> meet();
  void attempt();
  [[nodiscard]] Status set_up(vhost::Frontend frontend);
  void publish(Session& session);
  void unpublish();
  void watch(Session& session);
  void retire(bool hung_up);
  void note_broken(Session& session);
  void note_problem(const Error& error);
  void pause(milliseconds delay);
  [[nodiscard]] bool stopping() const { return stopping_.load(std::memory_order_relaxed); }
  void set_state(State state) {
    const std::lock_guard guard(state_lock_);
    state_ = std::move(state);
  }

  const Config config_;
  PortContext context_;
  std::vector<RxSlot> rx_;
  std::vector<TxSlot> tx_;
  std::atomic<uint32_t> offloads_{0};
  std::atomic<uint32_t> sends_large_{0};  // see RxQueue::large

  std::optional<vhost::UnixListener> listener_;
  UniqueFd stop_fd_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;

  mutable std::mutex state_lock_;
  State state_{"not started"};

  // The port's thread's own.
  std::unique_ptr<Session> session_;  // while there is a back end, and until the next one
  milliseconds retry_ = kFirstRetry;
  std::optional<vhost::PathWatch> path_watch_;  // a client's, while nobody listens
  std::string last_problem_;
};

Status VirtioUserPort::start() {
  if (auto ok = vhost::check_socket_path(config_.path); !ok) return ok;
  if (config_.server) {
    auto listener = vhost::UnixListener::bind(config_.path);
    if (!listener) return forward(listener);
    listener_ = std::move(*listener);
  }
  stop_fd_.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!stop_fd_) return fail_errno(errno, "can not make an eventfd");
  set_state(State((config_.server ? "waiting for a back end to connect to " : "connecting to ") +
                  config_.path));
  thread_ = std::thread([this] { run(); });
  return {};
}

void VirtioUserPort::stop() noexcept {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  (void)eventfd_write(stop_fd_.get(), 1);
  thread_.join();
  listener_.reset();
}

void VirtioUserPort::run() {
  while (!stopping()) attempt();
  session_.reset();
  set_state(State("stopped"));
}

/// Waits for a back end, serves it until it goes, and cleans up.
void VirtioUserPort::attempt() {
  auto frontend = meet();
  if (!frontend) {
    note_problem(frontend.error());
    return pause(retry_);
  }
  if (auto ok = set_up(std::move(*frontend)); !ok) {
    note_problem(ok.error());
    return pause(retry_);
  }
  retry_ = kFirstRetry;
  last_problem_.clear();
  publish(*session_);
  watch(*session_);
  unpublish();
  retire(!stopping());
}

/// Goes on with the rings that are there, if the back end can, or makes new ones.
Status VirtioUserPort::set_up(vhost::Frontend frontend) {
  if (session_) {
    Status resumed = session_->resume(std::move(frontend));
    if (!resumed && resumed.error().code == ErrorCode::kUnsupported) session_.reset();
    return resumed;
  }
  auto session = Session::establish(std::move(frontend), config_.session, context_.pool);
  if (!session) return forward(session);
  session_ = std::move(*session);
  return {};
}

Result<vhost::Frontend> VirtioUserPort::meet() {
  const vhost::FrontendOptions options{&context_.clock, kReplyTimeout, stop_fd_.get()};
  if (listener_) return vhost::Frontend::accept(*listener_, options);
  if (!path_watch_) path_watch_.emplace(config_.path);
  path_watch_->renew();  // before the attempt: what is made right after it is told
  auto frontend = vhost::Frontend::connect(config_.path, options);
  if (frontend) path_watch_.reset();
  return frontend;
}

void VirtioUserPort::publish(Session& session) {
  const uint64_t features = session.features();
  // What was joined is copied into buffers of the pool, and must fit a chain.
  const size_t pieces = Packet::kMaxLength / context_.pool.buffer_size() + 1;
  const bool join =
      config_.gro && pieces < std::min<size_t>(session.queue_size(), Packet::kMaxSegments);
  offloads_.store(tx_offloads(features, join), std::memory_order_relaxed);
  sends_large_.store(sent_large(features), std::memory_order_relaxed);
  const size_t pairs = session.rx().size();
  for (size_t i = 0; i < pairs; ++i) {
    rx_[i].live.store(session.rx()[i].get(), std::memory_order_release);
  }
  for (size_t i = 0; pairs != 0 && i < tx_.size(); ++i) {
    tx_[i].live.store(session.tx()[i % pairs].get(), std::memory_order_release);
  }
  State state("connected to " + config_.path);
  state.peer = session.frontend().peer().describe();
  state.up = true;
  state.memory = session.memory();
  state.features = features;
  state.protocol_features = session.frontend().protocol_features();
  state.queue_pairs = pairs;
  state.queue_size = session.queue_size();
  state.format = ring_format(features);
  context_.log.info(fmt::format("connected to {}{}{}: {} queue pair{}, {}", config_.path,
                                state.peer.empty() ? "" : ", ", state.peer, pairs,
                                pairs == 1 ? "" : "s",
                                fmt::join(virtio::net_feature_names(features), " ")));
  if (const uint64_t missing = kWishes & config_.session.features & ~features; missing != 0) {
    context_.log.warn(fmt::format("{} has no {}: going on with {} rings of {}", config_.path,
                                  fmt::join(virtio::net_feature_names(missing), " and no "),
                                  state.format, state.queue_size));
  }
  set_state(std::move(state));
}

void VirtioUserPort::unpublish() {
  for (RxSlot& slot : rx_) slot.live.store(nullptr, std::memory_order_release);
  for (TxSlot& slot : tx_) slot.live.store(nullptr, std::memory_order_release);
  offloads_.store(0, std::memory_order_relaxed);
  sends_large_.store(0, std::memory_order_relaxed);
}

void VirtioUserPort::watch(Session& session) {
  bool broken = false;
  while (!stopping()) {
    if (auto ok = session.frontend().wait_for_hang_up(kWatchPeriod); !ok) {
      if (!stopping()) {
        context_.log.warn(fmt::format("lost {}: {}", config_.path, ok.error().what));
        set_state(State(fmt::format("waiting for {} to come back", config_.path)));
      }
      return;
    }
    if (!broken) {
      note_broken(session);
      const std::lock_guard guard(state_lock_);
      broken = !state_.broken.empty();
    }
  }
}

void VirtioUserPort::note_broken(Session& session) {
  std::string what;
  const auto look = [&](const virtio_user::LiveRing& ring, const char* name, size_t i) {
    const ring::RingError error = ring.broken.load(std::memory_order_relaxed);
    if (error != ring::RingError::none && what.empty()) {
      what = fmt::format("{}{}: {}", name, i, describe(error));
    }
  };
  for (size_t i = 0; i < session.rx().size(); ++i) {
    look(*session.rx()[i], "rx", i);
    look(*session.tx()[i], "tx", i);
  }
  if (what.empty()) return;
  context_.log.warn(fmt::format("a queue is stopped until the back end comes anew: {}", what));
  const std::lock_guard guard(state_lock_);
  state_.broken = std::move(what);
}

/// What becomes of an unpublished session once no worker can be using it. When the back end has
/// gone its rings are kept for the next one, with all that lies in them, unless it broke them.
/// Else it is freed once the back end has stopped: until then that may write to buffers that would
/// be somebody else's already.
void VirtioUserPort::retire(bool hung_up) {
  while (!context_.quiescence.synchronize(kQuiescenceDeadline)) {
    context_.log.error("a worker does not let go of a ring: waiting for it");
  }
  if (hung_up) {
    if (!session_->sound()) session_.reset();
    return;
  }
  eventfd_t count;
  (void)eventfd_read(stop_fd_.get(), &count);  // the front end would not talk otherwise
  if (auto ok = session_->stop_rings(); !ok) {
    context_.log.warn(fmt::format("left {} without goodbye: {}", config_.path, ok.error().what));
  }
  session_.reset();
}

void VirtioUserPort::note_problem(const Error& error) {
  if (stopping() || (config_.server && error.code == ErrorCode::kTimeout)) return;
  if (error.what == last_problem_) return;
  last_problem_ = error.what;
  // That nobody is there yet is what waiting is for.
  const bool usual = error.code == ErrorCode::kNotFound || error.code == ErrorCode::kDisconnected;
  const std::string text = fmt::format("trying again: {}", error.what);
  if (usual) {
    context_.log.debug(text);
  } else {
    context_.log.warn(text);
  }
  set_state(State(text));
}

/// Sleeps until told to stop or somebody makes the socket; the next time twice as long, up to
/// kLastRetry.
void VirtioUserPort::pause(milliseconds delay) {
  const int made = path_watch_ ? path_watch_->fd() : -1;
  pollfd fds[2] = {{stop_fd_.get(), POLLIN, 0}, {made, POLLIN, 0}};
  if (!stopping()) (void)::poll(fds, 2, static_cast<int>(delay.count()));
  const bool look = fds[1].revents != 0 && path_watch_->take();
  retry_ = look ? kFirstRetry : std::min(kLastRetry, 2 * delay);
}

PortInfo VirtioUserPort::info() const {
  PortInfo info;
  info.kind = "virtio-user";
  info.target = config_.path;
  info.rx_queues = config_.session.queue_pairs;
  info.tx_queues = config_.session.queue_pairs;
  info.mtu = config_.session.mtu;
  info.mac = config_.session.mac;
  const std::lock_guard guard(state_lock_);
  info.link_up = state_.up;
  info.peer = state_.peer;
  info.state = state_.text;
  info.broken = state_.broken;
  info.memory = state_.memory;
  info.features = state_.features & ~spec::VHOST_USER_F_PROTOCOL_FEATURES;
  info.feature_names = virtio::net_feature_names(state_.features);
  info.protocol_feature_names = vhost::protocol_feature_names(state_.protocol_features);
  for (size_t i = 0; i < config_.session.queue_pairs; ++i) {
    const bool on = i < state_.queue_pairs;
    const uint32_t size = on ? state_.queue_size : 0;
    info.rings.push_back({fmt::format("rx{}", i), size, on, state_.format});
    info.rings.push_back({fmt::format("tx{}", i), size, on, state_.format});
  }
  return info;
}

}  // namespace

Result<std::unique_ptr<Port>> make_virtio_user_port(const PortSpec& spec,
                                                    const PortContext& context) {
  auto config = read_config(spec);
  if (!config) return forward(config);
  return std::make_unique<VirtioUserPort>(std::move(*config), context);
}

std::span<const PortKey> virtio_user_port_keys() { return kKeys; }

}  // namespace pollux
