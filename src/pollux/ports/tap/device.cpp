// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/tap/device.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "pollux/packet/tx_offloads.hpp"
#include "pollux/spec/virtio_net.hpp"

namespace pollux {
namespace {

constexpr auto kTunPath = "/dev/net/tun";
// Of Linux 6.2; newer than the headers of Debian 12.
constexpr unsigned kTunUso4 = 0x20;
constexpr unsigned kTunUso6 = 0x40;

ifreq request_for(const std::string& name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), std::min<size_t>(name.size(), IFNAMSIZ - 1));
  return request;
}

std::string create_advice(const TapOptions& options) {
  return fmt::format("run with CAP_NET_ADMIN, or once as root: ip tuntap add {} mode tap{} user {}",
                     options.name, options.queues > 1 ? " multi_queue" : "", "$USER");
}

std::unexpected<Error> attach_failure(int error, const TapOptions& options) {
  const std::string what = fmt::format("tap interface '{}'", options.name);
  if (error == EPERM || error == EACCES) {
    return fail_errno(error, fmt::format("{} ({})", what, create_advice(options)));
  }
  if (error == EBUSY) {
    Error busy{ErrorCode::kAlreadyExists, error,
               what + " is used by another program: end that, or choose another name"};
    return std::unexpected(std::move(busy));
  }
  if (error == EINVAL) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} exists, but is no tap interface {} multi_queue: choose another "
                            "name, or remove it with ip link del {}",
                            what, options.queues > 1 ? "with" : "without", options.name));
  }
  return fail_errno(error, what);
}

}  // namespace

Result<TapDevice> TapDevice::open(const TapOptions& options) {
  UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!control) return fail_errno(errno, "a socket to set up the tap interface");
  TapDevice device(options.name, std::move(control));
  if (Status attached = device.attach(options); !attached) return forward(attached);
  device.first_queue_ = device.queues_.front().get();
  if (options.offload) device.offer_offloads();
  if (options.gro && device.offloads_ != 0) device.offloads_ |= kTxJoin;
  if (Status configured = device.configure(options); !configured) return forward(configured);
  return device;
}

TapDevice TapDevice::adopt(const std::string& name, UniqueFd control, std::vector<UniqueFd> queues,
                           uint32_t offloads) {
  TapDevice device(name, std::move(control));
  device.queues_ = std::move(queues);
  device.first_queue_ = device.queues_.front().get();
  device.offloads_ = offloads;
  return device;
}

Status TapDevice::attach(const TapOptions& options) {
  ifreq request = request_for(name_);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (options.queues > 1) request.ifr_flags |= IFF_MULTI_QUEUE;
  for (uint32_t i = 0; i < options.queues; ++i) {
    UniqueFd fd(::open(kTunPath, O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!fd) {
      const char* advice = errno == ENOENT || errno == ENODEV
                               ? "load the kernel's module: modprobe tun"
                               : "let this user read and write it, e.g. chmod 0666 /dev/net/tun";
      return fail_errno(errno, fmt::format("{} ({})", kTunPath, advice));
    }
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) return attach_failure(errno, options);
    const int header_size = spec::kNetHdrSize;
    if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header_size) != 0) {
      return fail_errno(errno, fmt::format("tap interface '{}': TUNSETVNETHDRSZ", name_));
    }
    // A persistent interface keeps what an earlier program asked for.
    (void)::ioctl(fd.get(), TUNSETOFFLOAD, 0UL);
    queues_.push_back(std::move(fd));
  }
  return {};
}

void TapDevice::offer_offloads() {
  const unsigned tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  const uint32_t tx_tso = kTxChecksum | kTxTso4 | kTxTso6 | kTxTsoEcn;
  const int fd = first_queue_;  // these belong to the interface, not to the queue
  if (::ioctl(fd, TUNSETOFFLOAD, tso | kTunUso4 | kTunUso6) == 0) {
    offloads_ = tx_tso | kTxUso4 | kTxUso6;
  } else if (::ioctl(fd, TUNSETOFFLOAD, tso) == 0) {
    offloads_ = tx_tso;
  }
}

Status TapDevice::configure(const TapOptions& options) const {
  if (options.mac) {
    ifreq request = request_for(name_);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    std::memcpy(request.ifr_hwaddr.sa_data, options.mac->bytes().data(), net::MacAddress::kSize);
    if (::ioctl(control_.get(), SIOCSIFHWADDR, &request) != 0) {
      return fail_errno(errno, fmt::format("tap interface '{}': mac= can not be set (it needs "
                                           "CAP_NET_ADMIN and a unicast address)",
                                           name_));
    }
  }
  if (options.mtu) {
    ifreq request = request_for(name_);
    request.ifr_mtu = static_cast<int>(*options.mtu);
    if (::ioctl(control_.get(), SIOCSIFMTU, &request) != 0) {
      return fail_errno(
          errno, fmt::format("tap interface '{}': mtu={} can not be set (it needs CAP_NET_ADMIN)",
                             name_, *options.mtu));
    }
  }
  return options.up ? set_up() : Status{};
}

Status TapDevice::set_up() const {
  ifreq request = request_for(name_);
  if (::ioctl(control_.get(), SIOCGIFFLAGS, &request) == 0) {
    if ((request.ifr_flags & IFF_UP) != 0) return {};
    request.ifr_flags |= IFF_UP;
    if (::ioctl(control_.get(), SIOCSIFFLAGS, &request) == 0) return {};
  }
  return fail_errno(errno, fmt::format("tap interface '{0}' can not be set up (as root: ip link "
                                       "set {0} up; or say up=off)",
                                       name_));
}

TapDevice::State TapDevice::state() const {
  State state;
  ifreq request{};
  // It may have got another name meanwhile, or have been moved to a container's namespace.
  if (::ioctl(first_queue_, TUNGETIFF, &request) != 0) return state;
  state.there = true;
  if (::ioctl(control_.get(), SIOCGIFFLAGS, &request) != 0) {
    state.elsewhere = state.up = true;
    return state;
  }
  state.up = (request.ifr_flags & IFF_UP) != 0;
  if (::ioctl(control_.get(), SIOCGIFMTU, &request) == 0) {
    state.mtu = static_cast<uint16_t>(std::clamp(request.ifr_mtu, 0, 65535));
  }
  if (::ioctl(control_.get(), SIOCGIFHWADDR, &request) == 0) {
    std::array<uint8_t, net::MacAddress::kSize> mac{};
    std::memcpy(mac.data(), request.ifr_hwaddr.sa_data, mac.size());
    state.mac = net::MacAddress(mac);
  }
  return state;
}

}  // namespace pollux
