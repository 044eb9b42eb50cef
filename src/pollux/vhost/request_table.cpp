// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/request_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace pollux::vhost {
namespace {

using namespace spec;  // NOLINT(google-build-using-namespace): the table is all names of the text

constexpr uint32_t kU64 = sizeof(uint64_t);
constexpr uint32_t kState = sizeof(vhost_vring_state);
constexpr uint32_t kMemTableHead = offsetof(VhostUserMemory, regions);
constexpr uint32_t kConfigHead = sizeof(VhostUserConfig);
constexpr uint32_t kInflightUnpadded = offsetof(VhostUserInflight, padding);

constexpr uint64_t kSlots = VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
constexpr uint64_t kPostcopy = VHOST_USER_PROTOCOL_F_PAGEFAULT;
constexpr uint64_t kCrypto = VHOST_USER_PROTOCOL_F_CRYPTO_SESSION;
constexpr uint64_t kInflight = VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
constexpr uint64_t kDeviceState = VHOST_USER_PROTOCOL_F_DEVICE_STATE;

constexpr std::string_view kForCrypto = "it belongs to crypto devices";

// "Front-end message types". Two rows are wider than the text: SET_VRING_ENABLE, which peers send
// without VHOST_USER_F_PROTOCOL_FEATURES too, and NET_SET_MTU, which QEMU sends before it
// acknowledges VIRTIO_NET_F_MTU. ADD_MEM_REG comes with 8 zeros and no descriptor when a front end
// is ready to serve page faults ("POSTCOPY_LISTEN"). SET_LOG_BASE is only known as it is with
// LOG_SHMFD: without, its payload is an address in the front end, of use to nobody else.
constexpr std::array kRules{
    // request, name, payload min and max, descriptors min and max, reply, features, protocol
    RequestRule{VHOST_USER_GET_FEATURES, "GET_FEATURES", 0, 0, 0, 0, true},
    RequestRule{VHOST_USER_SET_FEATURES, "SET_FEATURES", kU64, kU64, 0, 0},
    RequestRule{VHOST_USER_SET_OWNER, "SET_OWNER", 0, 0, 0, 0},
    RequestRule{VHOST_USER_RESET_OWNER, "RESET_OWNER", 0, 0, 0, 0},
    RequestRule{VHOST_USER_SET_MEM_TABLE, "SET_MEM_TABLE", kMemTableHead, sizeof(VhostUserMemory),
                0, VHOST_USER_MAX_RAM_REGIONS},
    RequestRule{VHOST_USER_SET_LOG_BASE, "SET_LOG_BASE", sizeof(VhostUserLog), sizeof(VhostUserLog),
                1, 1, true, 0, VHOST_USER_PROTOCOL_F_LOG_SHMFD},
    RequestRule{VHOST_USER_SET_LOG_FD, "SET_LOG_FD", 0, kU64, 0, 1, false, 0,
                VHOST_USER_PROTOCOL_F_LOG_SHMFD},
    RequestRule{VHOST_USER_SET_VRING_NUM, "SET_VRING_NUM", kState, kState, 0, 0},
    RequestRule{VHOST_USER_SET_VRING_ADDR, "SET_VRING_ADDR", sizeof(vhost_vring_addr),
                sizeof(vhost_vring_addr), 0, 0},
    RequestRule{VHOST_USER_SET_VRING_BASE, "SET_VRING_BASE", kState, kState, 0, 0},
    RequestRule{VHOST_USER_GET_VRING_BASE, "GET_VRING_BASE", kState, kState, 0, 0, true},
    RequestRule{VHOST_USER_SET_VRING_KICK, "SET_VRING_KICK", kU64, kU64, 0, 1},
    RequestRule{VHOST_USER_SET_VRING_CALL, "SET_VRING_CALL", kU64, kU64, 0, 1},
    RequestRule{VHOST_USER_SET_VRING_ERR, "SET_VRING_ERR", kU64, kU64, 0, 1},
    RequestRule{VHOST_USER_GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES", 0, 0, 0, 0, true},
    RequestRule{VHOST_USER_SET_PROTOCOL_FEATURES, "SET_PROTOCOL_FEATURES", kU64, kU64, 0, 0},
    RequestRule{VHOST_USER_GET_QUEUE_NUM, "GET_QUEUE_NUM", 0, 0, 0, 0, true, 0,
                VHOST_USER_PROTOCOL_F_MQ, true},
    RequestRule{VHOST_USER_SET_VRING_ENABLE, "SET_VRING_ENABLE", kState, kState, 0, 0},
    RequestRule{VHOST_USER_SEND_RARP, "SEND_RARP", kU64, kU64, 0, 0, false, 0,
                VHOST_USER_PROTOCOL_F_RARP, true},
    RequestRule{VHOST_USER_NET_SET_MTU, "NET_SET_MTU", kU64, kU64, 0, 0, false, 0,
                VHOST_USER_PROTOCOL_F_MTU, true},
    RequestRule{VHOST_USER_SET_BACKEND_REQ_FD, "SET_BACKEND_REQ_FD", 0, 0, 1, 1, false, 0,
                VHOST_USER_PROTOCOL_F_BACKEND_REQ, true},
    RequestRule{VHOST_USER_IOTLB_MSG, "IOTLB_MSG", sizeof(vhost_iotlb_msg), sizeof(vhost_iotlb_msg),
                0, 0, true, VIRTIO_F_ACCESS_PLATFORM},
    RequestRule{VHOST_USER_SET_VRING_ENDIAN, "SET_VRING_ENDIAN", kState, kState, 0, 0, false, 0,
                VHOST_USER_PROTOCOL_F_CROSS_ENDIAN},
    RequestRule{VHOST_USER_GET_CONFIG, "GET_CONFIG", kConfigHead,
                kConfigHead + VHOST_USER_MAX_CONFIG_SIZE, 0, 0, true, 0,
                VHOST_USER_PROTOCOL_F_CONFIG},
    RequestRule{VHOST_USER_SET_CONFIG, "SET_CONFIG", kConfigHead,
                kConfigHead + VHOST_USER_MAX_CONFIG_SIZE, 0, 0, false, 0,
                VHOST_USER_PROTOCOL_F_CONFIG},
    RequestRule{VHOST_USER_CREATE_CRYPTO_SESSION, "CREATE_CRYPTO_SESSION", kU64, kMaxPayload, 0, 0,
                true, 0, kCrypto, false, kForCrypto},
    RequestRule{VHOST_USER_CLOSE_CRYPTO_SESSION, "CLOSE_CRYPTO_SESSION", kU64, kU64, 0, 0, false, 0,
                kCrypto, false, kForCrypto},
    RequestRule{VHOST_USER_POSTCOPY_ADVISE, "POSTCOPY_ADVISE", 0, 0, 0, 0, true, 0, kPostcopy},
    RequestRule{VHOST_USER_POSTCOPY_LISTEN, "POSTCOPY_LISTEN", 0, 0, 0, 0, false, 0, kPostcopy},
    RequestRule{VHOST_USER_POSTCOPY_END, "POSTCOPY_END", 0, 0, 0, 0, true, 0, kPostcopy},
    RequestRule{VHOST_USER_GET_INFLIGHT_FD, "GET_INFLIGHT_FD", kInflightUnpadded,
                sizeof(VhostUserInflight), 0, 0, true, 0, kInflight},
    RequestRule{VHOST_USER_SET_INFLIGHT_FD, "SET_INFLIGHT_FD", kInflightUnpadded,
                sizeof(VhostUserInflight), 1, 1, false, 0, kInflight},
    RequestRule{VHOST_USER_GPU_SET_SOCKET, "GPU_SET_SOCKET", 0, 0, 1, 1, false, 0, 0, false,
                "it belongs to GPU devices"},
    RequestRule{VHOST_USER_RESET_DEVICE, "RESET_DEVICE", 0, 0, 0, 0, false, 0,
                VHOST_USER_PROTOCOL_F_RESET_DEVICE, true},
    RequestRule{VHOST_USER_VRING_KICK, "VRING_KICK", kState, kState, 0, 0, false, 0,
                VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS},
    RequestRule{VHOST_USER_GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS", 0, 0, 0, 0, true, 0, kSlots},
    RequestRule{VHOST_USER_ADD_MEM_REG, "ADD_MEM_REG", kU64, sizeof(VhostUserMemRegMsg), 0, 1,
                false, 0, kSlots},
    RequestRule{VHOST_USER_REM_MEM_REG, "REM_MEM_REG", sizeof(VhostUserMemRegMsg),
                sizeof(VhostUserMemRegMsg), 0, 1, false, 0, kSlots},
    RequestRule{VHOST_USER_SET_STATUS, "SET_STATUS", kU64, kU64, 0, 0, false, 0,
                VHOST_USER_PROTOCOL_F_STATUS},
    RequestRule{VHOST_USER_GET_STATUS, "GET_STATUS", 0, 0, 0, 0, true, 0,
                VHOST_USER_PROTOCOL_F_STATUS},
    RequestRule{VHOST_USER_GET_SHARED_OBJECT, "GET_SHARED_OBJECT", sizeof(VhostUserShared),
                sizeof(VhostUserShared), 0, 0, true, 0, VHOST_USER_PROTOCOL_F_SHARED_OBJECT},
    RequestRule{VHOST_USER_SET_DEVICE_STATE_FD, "SET_DEVICE_STATE_FD",
                sizeof(VhostUserTransferDeviceState), sizeof(VhostUserTransferDeviceState), 1, 1,
                true, 0, kDeviceState},
    RequestRule{VHOST_USER_CHECK_DEVICE_STATE, "CHECK_DEVICE_STATE", 0, 0, 0, 0, true, 0,
                kDeviceState},
    RequestRule{VHOST_USER_GET_SHMEM_CONFIG, "GET_SHMEM_CONFIG", 0, 0, 0, 0, true, 0,
                VHOST_USER_PROTOCOL_F_SHMEM},
};

constexpr uint64_t kInband = VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS;
constexpr uint64_t kObjects = VHOST_USER_PROTOCOL_F_SHARED_OBJECT;

constexpr uint32_t kUuid = sizeof(VhostUserShared);
constexpr uint32_t kMMap = sizeof(VhostUserMMap);

// "Back-end message types".
constexpr std::array kBackendRules{
    // request, name, payload min and max, descriptors min and max, reply, features, protocol
    RequestRule{VHOST_USER_BACKEND_IOTLB_MSG, "BACKEND_IOTLB_MSG", sizeof(vhost_iotlb_msg),
                sizeof(vhost_iotlb_msg), 0, 0, false, VIRTIO_F_ACCESS_PLATFORM},
    RequestRule{VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, "BACKEND_CONFIG_CHANGE_MSG", 0, 0, 0, 0,
                false, 0, VHOST_USER_PROTOCOL_F_CONFIG},
    RequestRule{VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG, "BACKEND_VRING_HOST_NOTIFIER_MSG",
                sizeof(VhostUserVringArea), sizeof(VhostUserVringArea), 0, 1, false, 0,
                VHOST_USER_PROTOCOL_F_HOST_NOTIFIER},
    RequestRule{VHOST_USER_BACKEND_VRING_CALL, "BACKEND_VRING_CALL", kState, kState, 0, 0, false, 0,
                kInband},
    RequestRule{VHOST_USER_BACKEND_VRING_ERR, "BACKEND_VRING_ERR", kState, kState, 0, 0, false, 0,
                kInband},
    RequestRule{VHOST_USER_BACKEND_SHARED_OBJECT_ADD, "BACKEND_SHARED_OBJECT_ADD", kUuid, kUuid, 0,
                0, false, 0, kObjects},
    RequestRule{VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE, "BACKEND_SHARED_OBJECT_REMOVE", kUuid,
                kUuid, 0, 0, false, 0, kObjects},
    RequestRule{VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP, "BACKEND_SHARED_OBJECT_LOOKUP", kUuid,
                kUuid, 0, 0, true, 0, kObjects},
    RequestRule{VHOST_USER_BACKEND_SHMEM_MAP, "BACKEND_SHMEM_MAP", kMMap, kMMap, 1, 1, false, 0,
                VHOST_USER_PROTOCOL_F_SHMEM},
    RequestRule{VHOST_USER_BACKEND_SHMEM_UNMAP, "BACKEND_SHMEM_UNMAP", kMMap, kMMap, 0, 0, false, 0,
                VHOST_USER_PROTOCOL_F_SHMEM},
};

constexpr std::array<std::string_view, 23> kProtocolFeatureNames{
    "MQ",
    "LOG_SHMFD",
    "RARP",
    "REPLY_ACK",
    "MTU",
    "BACKEND_REQ",
    "CROSS_ENDIAN",
    "CRYPTO_SESSION",
    "PAGEFAULT",
    "CONFIG",
    "BACKEND_SEND_FD",
    "HOST_NOTIFIER",
    "INFLIGHT_SHMFD",
    "RESET_DEVICE",
    "INBAND_NOTIFICATIONS",
    "CONFIGURE_MEM_SLOTS",
    "STATUS",
    "XEN_MMAP",
    "SHARED_OBJECT",
    "DEVICE_STATE",
    "GET_VRING_BASE_INFLIGHT",
    "GPA_ADDRESSES",
    "SHMEM",
};

std::string range(uint32_t min, uint32_t max) {
  return min == max ? fmt::format("{}", min) : fmt::format("{} to {}", min, max);
}

}  // namespace

std::span<const RequestRule> request_rules() { return kRules; }

const RequestRule* find_rule(uint32_t request) {
  const auto* found = std::find_if(kRules.begin(), kRules.end(), [request](const RequestRule& r) {
    return r.request == request;
  });
  return found == kRules.end() ? nullptr : found;
}

std::string request_name(uint32_t request) {
  const RequestRule* rule = find_rule(request);
  return rule != nullptr ? std::string(rule->name) : fmt::format("request {}", request);
}

std::span<const BackendRequestRule> backend_request_rules() { return kBackendRules; }

const BackendRequestRule* find_backend_rule(uint32_t request) {
  const auto* found =
      std::find_if(kBackendRules.begin(), kBackendRules.end(),
                   [request](const BackendRequestRule& r) { return r.request == request; });
  return found == kBackendRules.end() ? nullptr : found;
}

std::string backend_request_name(uint32_t request) {
  const BackendRequestRule* rule = find_backend_rule(request);
  return rule != nullptr ? std::string(rule->name) : fmt::format("back-end request {}", request);
}

Status check_request(const RequestRule& rule, const Message& message,
                     const Negotiated& negotiated) {
  if (message.is_reply()) {
    return fail(ErrorCode::kProtocol, "it is marked as a reply, but nothing was asked");
  }
  if (message.payload.size() < rule.min_payload || message.payload.size() > rule.max_payload) {
    return fail(ErrorCode::kProtocol,
                fmt::format("it has {} bytes of payload instead of {}", message.payload.size(),
                            range(rule.min_payload, rule.max_payload)));
  }
  if (message.fds.size() < rule.min_fds || message.fds.size() > rule.max_fds) {
    return fail(ErrorCode::kProtocol,
                fmt::format("it came with {} descriptors instead of {}", message.fds.size(),
                            range(rule.min_fds, rule.max_fds)));
  }
  const uint64_t agreed =
      rule.offer_suffices ? negotiated.offered_protocol_features : negotiated.protocol_features;
  if (const uint64_t missing = rule.protocol_features & ~agreed; missing != 0) {
    return fail(ErrorCode::kUnsupported, fmt::format("protocol feature {} was not negotiated",
                                                     protocol_feature_names(missing).front()));
  }
  if (const uint64_t missing = rule.features & ~negotiated.features; missing != 0) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("feature bits {:#x} were not negotiated", missing));
  }
  return {};
}

std::vector<std::string> protocol_feature_names(uint64_t bits) {
  std::vector<std::string> names;
  for (unsigned n = 0; n < 64; ++n) {
    if ((bits & bit(n)) == 0) continue;
    names.push_back(n < kProtocolFeatureNames.size() ? std::string(kProtocolFeatureNames[n])
                                                     : fmt::format("bit {}", n));
  }
  return names;
}

}  // namespace pollux::vhost
