// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pollux::virtio {

/// The names of a network device's feature bits, lowest first, as people know them: "MRG_RXBUF",
/// "VERSION_1"; bits without a name as "bit 57". The vhost-user bit is left out.
[[nodiscard]] std::vector<std::string> net_feature_names(uint64_t features);

}  // namespace pollux::virtio
