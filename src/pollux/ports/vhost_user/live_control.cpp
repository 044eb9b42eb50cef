// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/live_ring.hpp"
#include "pollux/ports/vhost_user/ring_of.hpp"
#include "pollux/virtio/net_device_control.hpp"

namespace pollux::vhost_user {
namespace {

template <typename Ring>
struct ControlOf final : LiveControl {
  ControlOf(Ring ring, uint64_t /*features*/) : queue(std::move(ring)) {}

  bool serve(size_t most, const Execute& execute) override {
    bool wanted = queue.serve(most, execute);
    // What came between looking and asking for a kick is not told of.
    if (queue.ring().request_notifications()) wanted = queue.serve(most, execute) || wanted;
    note(queue.ring().error());
    return wanted;
  }
  uint32_t base() const noexcept override { return base_of(queue.ring()); }
  void set_log(const WriteLog* log) noexcept override { queue.ring().view().set_log(log); }

  virtio::NetDeviceControl<Ring> queue;
};

}  // namespace

std::unique_ptr<LiveControl> make_live_control(const vhost::RingStart& start,
                                               const PackedPast& past) {
  return std::visit(
      [&](const auto& layout) -> std::unique_ptr<LiveControl> {
        return make<ControlOf, ring::UsedEntries::kEach>(layout, start, past);
      },
      start.layout);
}

}  // namespace pollux::vhost_user
