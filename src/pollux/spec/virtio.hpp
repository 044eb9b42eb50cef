// SPDX-License-Identifier: Apache-2.0
// Constants common to all virtio devices; VIRTIO 1.3, sections 2.1, 2.2 and 6.
#pragma once

#include <cstdint>

namespace pollux::spec {

/// One feature bit as a 64-bit mask.
constexpr uint64_t bit(unsigned n) { return uint64_t{1} << n; }

// Section 6, reserved feature bits.
inline constexpr uint64_t VIRTIO_F_NOTIFY_ON_EMPTY = bit(24);  // legacy, 6.3
inline constexpr uint64_t VIRTIO_F_ANY_LAYOUT = bit(27);       // legacy, 6.3
inline constexpr uint64_t VIRTIO_F_INDIRECT_DESC = bit(28);
inline constexpr uint64_t VIRTIO_F_EVENT_IDX = bit(29);
inline constexpr uint64_t VIRTIO_F_VERSION_1 = bit(32);
inline constexpr uint64_t VIRTIO_F_ACCESS_PLATFORM = bit(33);
inline constexpr uint64_t VIRTIO_F_RING_PACKED = bit(34);
inline constexpr uint64_t VIRTIO_F_IN_ORDER = bit(35);
inline constexpr uint64_t VIRTIO_F_ORDER_PLATFORM = bit(36);
inline constexpr uint64_t VIRTIO_F_SR_IOV = bit(37);
inline constexpr uint64_t VIRTIO_F_NOTIFICATION_DATA = bit(38);
inline constexpr uint64_t VIRTIO_F_NOTIF_CONFIG_DATA = bit(39);
inline constexpr uint64_t VIRTIO_F_RING_RESET = bit(40);

// Section 2.1, device status field.
inline constexpr uint8_t VIRTIO_CONFIG_S_ACKNOWLEDGE = 1;
inline constexpr uint8_t VIRTIO_CONFIG_S_DRIVER = 2;
inline constexpr uint8_t VIRTIO_CONFIG_S_DRIVER_OK = 4;
inline constexpr uint8_t VIRTIO_CONFIG_S_FEATURES_OK = 8;
inline constexpr uint8_t VIRTIO_CONFIG_S_NEEDS_RESET = 64;
inline constexpr uint8_t VIRTIO_CONFIG_S_FAILED = 128;

}  // namespace pollux::spec
