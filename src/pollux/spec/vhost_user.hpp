// SPDX-License-Identifier: Apache-2.0
// Messages between a vhost-user front end and back end: the vhost-user text of the QEMU project
// (docs/interop/vhost-user.rst), whose section names stand in the comments. All fields are in
// native byte order. Structure only: what may be sent when is in vhost/request_table.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pollux/spec/virtio.hpp"

namespace pollux::spec {

// "Header".
inline constexpr uint32_t VHOST_USER_VERSION = 0x1;
inline constexpr uint32_t VHOST_USER_VERSION_MASK = 0x3;
inline constexpr uint32_t VHOST_USER_REPLY_MASK = 0x1 << 2;
inline constexpr uint32_t VHOST_USER_NEED_REPLY_MASK = 0x1 << 3;

struct VhostUserHeader {
  uint32_t request;
  uint32_t flags;
  uint32_t size;  // bytes of payload that follow
};
static_assert(sizeof(VhostUserHeader) == 12 && offsetof(VhostUserHeader, size) == 8);

// "Front-end message types": requests of the front end.
enum VhostUserRequest : uint32_t {
  VHOST_USER_GET_FEATURES = 1,
  VHOST_USER_SET_FEATURES = 2,
  VHOST_USER_SET_OWNER = 3,
  VHOST_USER_RESET_OWNER = 4,
  VHOST_USER_SET_MEM_TABLE = 5,
  VHOST_USER_SET_LOG_BASE = 6,
  VHOST_USER_SET_LOG_FD = 7,
  VHOST_USER_SET_VRING_NUM = 8,
  VHOST_USER_SET_VRING_ADDR = 9,
  VHOST_USER_SET_VRING_BASE = 10,
  VHOST_USER_GET_VRING_BASE = 11,
  VHOST_USER_SET_VRING_KICK = 12,
  VHOST_USER_SET_VRING_CALL = 13,
  VHOST_USER_SET_VRING_ERR = 14,
  VHOST_USER_GET_PROTOCOL_FEATURES = 15,
  VHOST_USER_SET_PROTOCOL_FEATURES = 16,
  VHOST_USER_GET_QUEUE_NUM = 17,
  VHOST_USER_SET_VRING_ENABLE = 18,
  VHOST_USER_SEND_RARP = 19,
  VHOST_USER_NET_SET_MTU = 20,
  VHOST_USER_SET_BACKEND_REQ_FD = 21,
  VHOST_USER_IOTLB_MSG = 22,
  VHOST_USER_SET_VRING_ENDIAN = 23,
  VHOST_USER_GET_CONFIG = 24,
  VHOST_USER_SET_CONFIG = 25,
  VHOST_USER_CREATE_CRYPTO_SESSION = 26,
  VHOST_USER_CLOSE_CRYPTO_SESSION = 27,
  VHOST_USER_POSTCOPY_ADVISE = 28,
  VHOST_USER_POSTCOPY_LISTEN = 29,
  VHOST_USER_POSTCOPY_END = 30,
  VHOST_USER_GET_INFLIGHT_FD = 31,
  VHOST_USER_SET_INFLIGHT_FD = 32,
  VHOST_USER_GPU_SET_SOCKET = 33,
  VHOST_USER_RESET_DEVICE = 34,
  VHOST_USER_VRING_KICK = 35,
  VHOST_USER_GET_MAX_MEM_SLOTS = 36,
  VHOST_USER_ADD_MEM_REG = 37,
  VHOST_USER_REM_MEM_REG = 38,
  VHOST_USER_SET_STATUS = 39,
  VHOST_USER_GET_STATUS = 40,
  VHOST_USER_GET_SHARED_OBJECT = 41,
  VHOST_USER_SET_DEVICE_STATE_FD = 42,
  VHOST_USER_CHECK_DEVICE_STATE = 43,
  VHOST_USER_GET_SHMEM_CONFIG = 44,
};

// "Back-end message types": requests of the back end, on the channel of SET_BACKEND_REQ_FD.
enum VhostUserBackendRequest : uint32_t {
  VHOST_USER_BACKEND_IOTLB_MSG = 1,
  VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2,
  VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG = 3,
  VHOST_USER_BACKEND_VRING_CALL = 4,
  VHOST_USER_BACKEND_VRING_ERR = 5,
  VHOST_USER_BACKEND_SHARED_OBJECT_ADD = 6,
  VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE = 7,
  VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP = 8,
  VHOST_USER_BACKEND_SHMEM_MAP = 9,
  VHOST_USER_BACKEND_SHMEM_UNMAP = 10,
};

// "Communication": bits of GET/SET_FEATURES that are not virtio's.
inline constexpr uint64_t VHOST_F_LOG_ALL = bit(26);
inline constexpr uint64_t VHOST_USER_F_PROTOCOL_FEATURES = bit(30);

// "Protocol features".
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_MQ = bit(0);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_LOG_SHMFD = bit(1);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_RARP = bit(2);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_REPLY_ACK = bit(3);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_MTU = bit(4);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_BACKEND_REQ = bit(5);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_CROSS_ENDIAN = bit(6);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_CRYPTO_SESSION = bit(7);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_PAGEFAULT = bit(8);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_CONFIG = bit(9);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD = bit(10);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_HOST_NOTIFIER = bit(11);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = bit(12);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_RESET_DEVICE = bit(13);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS = bit(14);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = bit(15);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_STATUS = bit(16);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_XEN_MMAP = bit(17);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_SHARED_OBJECT = bit(18);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_DEVICE_STATE = bit(19);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT = bit(20);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_GPA_ADDRESSES = bit(21);
inline constexpr uint64_t VHOST_USER_PROTOCOL_F_SHMEM = bit(22);

// "A vring state description"; also "Vring descriptor index", where num is an index: 16 bits for a
// split ring, both indices with their wrap counters for a packed one.
struct vhost_vring_state {
  uint32_t index;
  uint32_t num;
};
static_assert(sizeof(vhost_vring_state) == 8);

// SET_VRING_ENDIAN: what num says.
inline constexpr uint32_t VHOST_VRING_LITTLE_ENDIAN = 0;
inline constexpr uint32_t VHOST_VRING_BIG_ENDIAN = 1;

// "A vring address description".
inline constexpr uint32_t VHOST_VRING_F_LOG = 1 << 0;

struct vhost_vring_addr {
  uint32_t index;
  uint32_t flags;
  uint64_t desc_user_addr;
  uint64_t used_user_addr;
  uint64_t avail_user_addr;
  uint64_t log_guest_addr;
};
static_assert(sizeof(vhost_vring_addr) == 40 && offsetof(vhost_vring_addr, used_user_addr) == 16);

// SET_VRING_KICK, CALL, ERR: what the 64-bit payload holds.
inline constexpr uint64_t VHOST_USER_VRING_IDX_MASK = 0xff;
inline constexpr uint64_t VHOST_USER_VRING_NOFD_MASK = 0x1 << 8;

// "Memory region description".
struct VhostUserMemoryRegion {
  uint64_t guest_phys_addr;
  uint64_t memory_size;
  uint64_t userspace_addr;
  uint64_t mmap_offset;
};
static_assert(sizeof(VhostUserMemoryRegion) == 32);

// "Single memory region description".
struct VhostUserMemRegMsg {
  uint64_t padding;
  VhostUserMemoryRegion region;
};
static_assert(sizeof(VhostUserMemRegMsg) == 40 && offsetof(VhostUserMemRegMsg, region) == 8);

// "Multiple memory regions description": nregions of the regions are on the wire.
inline constexpr uint32_t VHOST_USER_MAX_RAM_REGIONS = 8;

struct VhostUserMemory {
  uint32_t nregions;
  uint32_t padding;
  VhostUserMemoryRegion regions[VHOST_USER_MAX_RAM_REGIONS];
};
static_assert(sizeof(VhostUserMemory) == 264 && offsetof(VhostUserMemory, regions) == 8);

// "Log description".
inline constexpr uint64_t VHOST_LOG_PAGE = 0x1000;

struct VhostUserLog {
  uint64_t mmap_size;
  uint64_t mmap_offset;
};
static_assert(sizeof(VhostUserLog) == 16);

// "An IOTLB message".
enum VhostIotlbAccess : uint8_t { VHOST_ACCESS_RO = 1, VHOST_ACCESS_WO = 2, VHOST_ACCESS_RW = 3 };
enum VhostIotlbType : uint8_t {
  VHOST_IOTLB_MISS = 1,
  VHOST_IOTLB_UPDATE = 2,
  VHOST_IOTLB_INVALIDATE = 3,
  VHOST_IOTLB_ACCESS_FAIL = 4,
};

struct vhost_iotlb_msg {
  uint64_t iova;
  uint64_t size;
  uint64_t uaddr;
  uint8_t perm;
  uint8_t type;
  uint8_t padding[6];
};
static_assert(sizeof(vhost_iotlb_msg) == 32 && offsetof(vhost_iotlb_msg, type) == 25);

// "Virtio device config space": `size` bytes of content follow.
inline constexpr uint32_t VHOST_USER_MAX_CONFIG_SIZE = 256;

// flags of SET_CONFIG: who writes, the driver or a migration.
inline constexpr uint32_t VHOST_SET_CONFIG_TYPE_FRONTEND = 0;
inline constexpr uint32_t VHOST_SET_CONFIG_TYPE_MIGRATION = 1;

struct VhostUserConfig {
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
};
static_assert(sizeof(VhostUserConfig) == 12);

// "Vring area description".
struct VhostUserVringArea {
  uint64_t u64;  // index and VHOST_USER_VRING_NOFD_MASK
  uint64_t size;
  uint64_t offset;
};
static_assert(sizeof(VhostUserVringArea) == 24);

// "Inflight description".
struct VhostUserInflight {
  uint64_t mmap_size;
  uint64_t mmap_offset;
  uint16_t num_queues;
  uint16_t queue_size;
  uint8_t padding[4];
};
static_assert(sizeof(VhostUserInflight) == 24 && offsetof(VhostUserInflight, queue_size) == 18);

// "VhostUserShared".
struct VhostUserShared {
  uint8_t uuid[16];
};
static_assert(sizeof(VhostUserShared) == 16);

// "Device state transfer parameters".
inline constexpr uint32_t VHOST_TRANSFER_STATE_DIRECTION_SAVE = 0;  // back end to front end
inline constexpr uint32_t VHOST_TRANSFER_STATE_DIRECTION_LOAD = 1;
inline constexpr uint32_t VHOST_TRANSFER_STATE_PHASE_STOPPED = 0;

struct VhostUserTransferDeviceState {
  uint32_t direction;
  uint32_t phase;
};
static_assert(sizeof(VhostUserTransferDeviceState) == 8);

// The reply to SET_DEVICE_STATE_FD: an error in bits 0 to 7, and whether no descriptor comes.
inline constexpr uint64_t kStateFdErrorMask = 0xff;
inline constexpr uint64_t kStateFdNone = 0x1 << 8;

// "MMAP request": a part of a file into a VIRTIO shared memory region of the device.
inline constexpr uint64_t VHOST_USER_FLAG_MAP_RW = 1 << 0;

struct VhostUserMMap {
  uint8_t shmid;
  uint8_t padding[7];
  uint64_t fd_offset;
  uint64_t shm_offset;
  uint64_t len;
  uint64_t flags;
};
static_assert(sizeof(VhostUserMMap) == 40 && offsetof(VhostUserMMap, fd_offset) == 8);

// "VIRTIO Shared Memory Region configuration".
struct VhostUserShMemConfig {
  uint32_t nregions;
  uint32_t padding;
  uint64_t memory_sizes[256];
};
static_assert(sizeof(VhostUserShMemConfig) == 2056);

// Memory slots that a back end may offer in GET_MAX_MEM_SLOTS; as many as KVM gives a guest.
inline constexpr uint32_t kMaxMemSlots = 509;
// Descriptors that any message of the text carries at most.
inline constexpr uint32_t kMaxMessageFds = 8;
// Vrings that SET_VRING_KICK's 8 bits can name.
inline constexpr uint32_t kMaxVrings = 256;

}  // namespace pollux::spec
