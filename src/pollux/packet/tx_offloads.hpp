// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace pollux {

/// What a sender may leave undone in packets for a tx queue, because the receiver agreed to take
/// them so: bits of TxQueue::offloads.
inline constexpr uint32_t kTxChecksum = 1;
inline constexpr uint32_t kTxTso4 = 2;
inline constexpr uint32_t kTxTso6 = 4;
inline constexpr uint32_t kTxTsoEcn = 8;
inline constexpr uint32_t kTxUso4 = 16;  ///< UDP segmentation, VIRTIO_NET_F_GUEST_USO4
inline constexpr uint32_t kTxUso6 = 32;
inline constexpr uint32_t kTxUfo = 64;  ///< IP fragmentation of UDP, VIRTIO_NET_F_GUEST_UFO
/// What comes in small TCP segments may be joined for it, as far as kTxTso4 and kTxTso6 go. Only
/// with kTxChecksum.
inline constexpr uint32_t kTxJoin = 128;

}  // namespace pollux
