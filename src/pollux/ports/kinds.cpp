// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/kinds.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <string>
#include <vector>

#include "pollux/ports/null/port.hpp"
#include "pollux/ports/pcap/port.hpp"
#include "pollux/ports/ring/port.hpp"
#include "pollux/ports/tap/port.hpp"
#include "pollux/ports/vhost_user/port.hpp"
#include "pollux/ports/virtio_user/port.hpp"

namespace pollux {

// The one table of port kinds. A new kind: a folder here with a make function and a list of keys,
// and a row below.
std::span<const PortKind> port_kinds() {
  static const std::array kKinds{
      PortKind{"vhost-user", "SOCKET", "a VM or container, over a vhost-user socket",
               vhost_user_port_keys(), make_vhost_user_port},
      PortKind{"virtio-user", "SOCKET",
               "the driver's side of a vhost-user socket: a guest without one",
               virtio_user_port_keys(), make_virtio_user_port},
      PortKind{"null", "", "takes every packet and forgets it; may deliver made-up frames",
               null_port_keys(), make_null_port},
      PortKind{"ring", "NAME", "joined to the other ring port of this name in the same program",
               ring_port_keys(), make_ring_port},
      PortKind{"pcap", "FILE", "plays a capture file and writes another", pcap_port_keys(),
               make_pcap_port},
      PortKind{"tap", "INTERFACE", "a network interface of this host", tap_port_keys(),
               make_tap_port},
  };
  return kKinds;
}

const PortKind* find_port_kind(std::string_view name) {
  for (const PortKind& kind : port_kinds()) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

Result<std::unique_ptr<Port>> make_port(const PortSpec& spec, const PortContext& context) {
  if (const PortKind* kind = find_port_kind(spec.kind)) return kind->make(spec, context);
  std::vector<std::string_view> names;
  for (const PortKind& kind : port_kinds()) names.push_back(kind.name);
  const std::string_view nearest = nearest_word(spec.kind, names);
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("no port kind '{}'{}; there are: {}", spec.kind,
                          nearest.empty() ? "" : fmt::format(", did you mean '{}'?", nearest),
                          fmt::join(names, ", ")));
}

}  // namespace pollux
