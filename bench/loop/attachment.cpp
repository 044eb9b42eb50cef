// SPDX-License-Identifier: Apache-2.0
#include "bench/loop/attachment.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "pollux/base/peer_fd.hpp"
#include "pollux/spec/vhost_user.hpp"
#include "pollux/spec/virtio.hpp"
#include "pollux/spec/virtio_net.hpp"
#include "pollux/vhost/ring_layout.hpp"
#include "pollux/virtio/feature_names.hpp"

namespace pollux::bench {
namespace {

using namespace spec;

const SteadyClock kClock;
constexpr auto kPatience = std::chrono::seconds(10);

/// A switch that was just started may not listen yet.
Result<vhost::Frontend> connect(const std::string& path) {
  const Nanos deadline = kClock.now() + kPatience;
  for (;;) {
    auto frontend = vhost::Frontend::connect(path, {.clock = &kClock});
    if (frontend || kClock.now() > deadline) return frontend;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

uint64_t wanted(const AttachOptions& options) {
  uint64_t features = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF;
  if (options.packed) features |= VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER;
  if (options.chain > 1) features |= VIRTIO_F_INDIRECT_DESC;
  if (options.large) {
    features |= VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_HOST_TSO4 |
                VIRTIO_NET_F_GUEST_TSO4;
  }
  return features;
}

Result<uint64_t> negotiate(vhost::Frontend& frontend, uint64_t wanted) {
  if (auto ok = frontend.set_owner(); !ok) return forward(ok);
  const auto offered = frontend.get_features();
  if (!offered) return forward(offered);
  if (const uint64_t missing = wanted & ~*offered; missing != 0) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the switch does not offer {}",
                            fmt::join(virtio::net_feature_names(missing), ", ")));
  }
  uint64_t features = wanted;
  if ((*offered & VHOST_USER_F_PROTOCOL_FEATURES) != 0) {
    features |= VHOST_USER_F_PROTOCOL_FEATURES;
    const auto protocol = frontend.get_protocol_features();
    if (!protocol) return forward(protocol);
    const uint64_t both = *protocol & VHOST_USER_PROTOCOL_F_REPLY_ACK;
    if (auto ok = frontend.set_protocol_features(both); !ok) return forward(ok);
  }
  if (auto ok = frontend.set_features(features); !ok) return forward(ok);
  return features;
}

}  // namespace

Result<std::unique_ptr<Attachment>> Attachment::open(const std::string& path,
                                                     const AttachOptions& options,
                                                     const Pool& pool) {
  auto frontend = connect(path);
  if (!frontend) return forward(frontend);
  const auto features = negotiate(*frontend, wanted(options));
  if (!features) return forward(features);
  auto memory = virtio_user::SharedMemory::create(
      pool, {.rings = 2,
             .size = options.ring_size,
             .packed = options.packed,
             .table_entries = options.chain > 1 ? options.chain : 0});
  if (!memory) return forward(memory);
  if (auto ok = frontend->share_memory(memory->regions()); !ok) return forward(ok);
  std::unique_ptr<Attachment> made(
      new Attachment(std::move(*frontend), std::move(*memory), options.ring_size));
  made->features_ = *features;
  for (int ring = 0; ring < 2; ++ring) {
    made->kick_[ring].reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    made->call_[ring].reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!made->kick_[ring] || !made->call_[ring]) return fail_errno(errno, "eventfd");
  }
  return made;
}

Status Attachment::start() {
  const bool packed = (features_ & VIRTIO_F_RING_PACKED) != 0;
  for (uint16_t ring = 0; ring < 2; ++ring) {
    if (auto ok = frontend_.set_vring_num(ring, ring_size_); !ok) return ok;
    if (auto ok = frontend_.set_vring_base(ring, vhost::initial_ring_base(packed)); !ok) return ok;
    if (auto ok = frontend_.set_vring_addr(ring, memory_.addresses(ring)); !ok) return ok;
    if (auto ok = frontend_.set_vring_call(ring, call_[ring].get()); !ok) return ok;
    if (auto ok = frontend_.set_vring_kick(ring, kick_[ring].get()); !ok) return ok;
  }
  for (uint16_t ring = 0; ring < 2; ++ring) {
    if ((features_ & VHOST_USER_F_PROTOCOL_FEATURES) != 0) {
      if (auto ok = frontend_.set_vring_enable(ring, true); !ok) return ok;
    }
    kick(ring);
  }
  return {};
}

Status Attachment::stop() {
  for (uint16_t ring = 0; ring < 2; ++ring) {
    if (auto base = frontend_.get_vring_base(ring); !base) return forward(base);
  }
  return {};
}

void Attachment::kick(uint16_t ring) const noexcept { signal_event(kick_[ring].get()); }

}  // namespace pollux::bench
