// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "pollux/port/factory.hpp"

namespace pollux {

/// `pcap:IN.pcap,tx=OUT.pcap`: plays a capture file as fast as it is polled, and writes what it is
/// given to another one. Either may be left out; then there is no queue of that direction.
[[nodiscard]] Result<std::unique_ptr<Port>> make_pcap_port(const PortSpec& spec,
                                                           const PortContext& context);
[[nodiscard]] std::span<const PortKey> pcap_port_keys();

}  // namespace pollux
