// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/tap/port.hpp"

#include <fmt/format.h>
#include <net/if.h>

#include <array>
#include <optional>
#include <utility>

#include "pollux/port/parcel.hpp"
#include "pollux/ports/tap/device.hpp"
#include "pollux/ports/tap/queue.hpp"

namespace pollux {
namespace {

constexpr std::array<PortKey, 6> kKeys{{
    {"queues", "pairs of queues, 1 to 64 (1)"},
    {"offload", "off: no checksums or segments left to the other side (on)"},
    {"gro", "join small TCP segments for the kernel (on)"},
    {"up", "off: leave the interface as it is (on)"},
    {"mac", "address to give the interface (the kernel's choice)"},
    {"mtu", "MTU to give the interface, 68 to 65521 (the kernel's choice)"},
}};

class TapPort final : public Port {
 public:
  TapPort(TapOptions options, const PortContext& context) : options_(std::move(options)) {
    for (uint32_t i = 0; i < options_.queues; ++i) {
      queues_.push_back(std::make_unique<TapQueue>(context.pool));
    }
  }
  ~TapPort() override { stop(); }

  [[nodiscard]] Status start() override {
    auto device = TapDevice::open(options_);
    if (!device) return forward(device);
    attach(std::move(*device));
    return {};
  }

  // The interface stays as long as any process holds its descriptors.
  [[nodiscard]] Status can_hand_over() const override { return {}; }
  [[nodiscard]] Status save(PortParcel& to) override {
    to.values["offloads"] = device_->offloads();
    to.values["control"] = to.fds.lend(device_->control_fd());
    auto& queues = to.values["queues"] = nlohmann::json::array();
    for (const auto& queue : queues_) queues.push_back(to.fds.lend(queue->fd()));
    return {};
  }
  [[nodiscard]] Status adopt(PortParcel& from) override {
    auto control = from.fds.take(from.values.at("control"));
    if (!control) return forward(control);
    std::vector<UniqueFd> queues;
    for (const auto& number : from.values.at("queues")) {
      auto queue = from.fds.take(number);
      if (!queue) return forward(queue);
      queues.push_back(std::move(*queue));
    }
    if (queues.size() != queues_.size()) {
      return fail(ErrorCode::kProtocol, "a tap came with another number of queues");
    }
    attach(TapDevice::adopt(options_.name, std::move(*control), std::move(queues),
                            from.values.at("offloads")));
    return {};
  }

  void stop() noexcept override {
    for (auto& queue : queues_) queue->detach();
    device_.reset();
  }

  [[nodiscard]] PortInfo info() const override {
    PortInfo info;
    info.kind = "tap";
    info.target = options_.name;
    info.rx_queues = info.tx_queues = static_cast<uint16_t>(options_.queues);
    if (!device_) return info;
    const TapDevice::State state = device_->state();
    info.peer = "the host's network stack";
    info.link_up = state.up;
    info.mtu = state.mtu;
    info.mac = state.mac;
    if (!state.there) {
      info.state = "gone";
      info.broken = "the interface was removed";
    } else if (state.elsewhere) {
      info.state = "in another network namespace";
    } else {
      info.state = state.up ? "up" : fmt::format("down: ip link set {} up", options_.name);
    }
    return info;
  }

  [[nodiscard]] std::vector<RxQueue> rx_queues() override {
    std::vector<RxQueue> out;
    for (auto& queue : queues_) out.push_back(queue->rx());
    return out;
  }
  [[nodiscard]] std::vector<TxQueue> tx_queues() override {
    std::vector<TxQueue> out;
    for (auto& queue : queues_) out.push_back(queue->tx());
    return out;
  }

 private:
  void attach(TapDevice device) {
    device_ = std::move(device);
    for (size_t i = 0; i < queues_.size(); ++i) {
      queues_[i]->attach(std::move(device_->queues()[i]), device_->offloads());
    }
  }

  const TapOptions options_;
  std::optional<TapDevice> device_;
  std::vector<std::unique_ptr<TapQueue>> queues_;
};

}  // namespace

std::span<const PortKey> tap_port_keys() { return kKeys; }

Result<std::unique_ptr<Port>> make_tap_port(const PortSpec& spec, const PortContext& context) {
  SpecReader read(spec);
  TapOptions options;
  options.name = spec.target;
  options.queues = read.get_u32("queues", {.min = 1, .max = 64}, 1);
  options.offload = read.get_bool("offload", true);
  options.gro = read.get_bool("gro", true);
  options.up = read.get_bool("up", true);
  options.mac = read.get_mac("mac");
  if (read.has("mtu")) options.mtu = read.get_u32("mtu", {.min = 68, .max = 65521}, 1500);
  read.require_target("the name of a network interface");
  if (spec.target.size() >= IFNAMSIZ || spec.target.find_first_of("/ %:") != std::string::npos) {
    read.fail_with(
        fmt::format("'{}' is no name for a network interface: use 1 to {} letters, "
                    "digits, '-' or '.'",
                    spec.target, IFNAMSIZ - 1));
  }
  if (Status done = read.finish(); !done) return forward(done);
  return std::make_unique<TapPort>(std::move(options), context);
}

}  // namespace pollux
