// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pollux/base/strong.hpp"
#include "pollux/mem/iotlb.hpp"
#include "pollux/spec/vhost_user.hpp"
#include "pollux/vhost/device.hpp"

namespace pollux::vhost {

/// One region that the front end shared, with the descriptor to map it again from.
struct MemorySlot {
  spec::VhostUserMemoryRegion region{};
  SharedFd fd;
  /// How often it was added and not removed. QEMU before 8.1 sends ADD_MEM_REG and REM_MEM_REG once
  /// for each queue pair.
  uint32_t references = 1;
};

/// One vring as the front end set it up. All that another process needs to go on with it.
struct VringState {
  uint32_t size = 0;  ///< 0: not set yet
  bool addresses_known = false;
  uint32_t flags = 0;  ///< VHOST_VRING_F_...
  UserAddr desc;
  UserAddr used;
  UserAddr avail;
  GuestAddr log;
  uint32_t base = 0;          ///< see RingStart::base; valid while the ring is stopped
  bool base_known = false;    ///< SET_VRING_BASE came for this ring, or it ran before
  bool base_ours = false;     ///< see RingStart
  bool enable_known = false;  ///< SET_VRING_ENABLE came for this ring
  bool kick_known = false;    ///< SET_VRING_KICK came since the ring was last stopped
  bool call_known = false;    ///< SET_VRING_CALL came, with a descriptor or without
  bool err_known = false;     ///< SET_VRING_ERR came
  RingControls controls;
  bool started = false;         ///< the device runs it
  std::string stopped_because;  ///< one sentence for people while it does not
};

/// The log of dirty pages that the front end shared (SET_LOG_BASE), and its event (SET_LOG_FD).
struct LogState {
  spec::VhostUserLog place{};
  SharedFd fd;     ///< null: no log yet
  SharedFd event;  ///< null: none. Non-blocking.
};

/// What has passed between us and a guest's IOMMU; for people.
struct IotlbCounters {
  uint64_t misses = 0;         ///< questions asked
  uint64_t updates = 0;        ///< mappings told
  uint64_t invalidations = 0;  ///< mappings taken back
  uint64_t faults = 0;         ///< accesses that the IOMMU refused
  uint64_t overdue = 0;        ///< questions that were not answered in time, and asked again
  uint64_t refused = 0;        ///< messages that made no sense
};

/// A session in plain values: what a hand-over or a restart has to carry. Bump kVersion when a
/// member changes its meaning.
struct SessionState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  bool owned = false;              ///< SET_OWNER came
  bool features_known = false;     ///< SET_FEATURES came
  uint64_t features = 0;           ///< acknowledged bits, VHOST_USER_F_PROTOCOL_FEATURES included
  uint64_t protocol_features = 0;  ///< acknowledged protocol bits
  uint8_t status = 0;              ///< SET_STATUS
  uint64_t mtu = 0;                ///< NET_SET_MTU; 0: never set
  std::vector<MemorySlot> slots;   ///< in order of arrival
  std::vector<VringState> vrings;  ///< offer().vrings of them
  LogState log;
  SharedFd inflight_fd;                ///< SET_INFLIGHT_FD; null: none
  spec::VhostUserInflight inflight{};  ///< what it said of that
  SharedFd backend_channel;            ///< SET_BACKEND_REQ_FD; null: none, or given up
  std::string channel_problem;         ///< why the channel was given up; empty: it was not
  IotlbCounters iotlb;
  std::vector<Iotlb::Mapping> mappings;  ///< of the guest's IOMMU, while the session is at rest
  uint64_t messages = 0;                 ///< requests handled so far
  std::string last_problem;              ///< the last request that was refused, and why
};

}  // namespace pollux::vhost
