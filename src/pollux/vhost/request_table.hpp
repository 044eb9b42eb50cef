// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/vhost/message.hpp"

namespace pollux::vhost {

/// What the text says about one request of the front end: everything that can be checked without
/// knowing the session. One row a request, in request_table.cpp.
struct RequestRule {
  uint32_t request = 0;
  std::string_view name;  ///< "SET_VRING_NUM"
  uint32_t min_payload = 0;
  uint32_t max_payload = 0;
  uint32_t min_fds = 0;
  uint32_t max_fds = 0;
  bool has_reply = false;          ///< answered with a payload of its own, need_reply or not
  uint64_t features = 0;           ///< all of these must be negotiated (virtio bits)
  uint64_t protocol_features = 0;  ///< all of these must be negotiated (protocol bits)
  bool offer_suffices = false;     ///< of protocol_features: being offered is enough
  std::string_view why_not = {};   ///< why no session serves it; empty: see find_handler
};

/// What both ends agreed on so far.
struct Negotiated {
  uint64_t features = 0;
  uint64_t protocol_features = 0;
  uint64_t offered_protocol_features = 0;
};

[[nodiscard]] std::span<const RequestRule> request_rules();

/// The rule of a request, or null when the text has no such request.
[[nodiscard]] const RequestRule* find_rule(uint32_t request);

/// "SET_VRING_NUM", or "request 99" for one that is not in the text.
[[nodiscard]] std::string request_name(uint32_t request);

/// The same for requests of the back end ("Back-end message types"); `has_reply` and `why_not` are
/// about the front end.
using BackendRequestRule = RequestRule;
[[nodiscard]] std::span<const BackendRequestRule> backend_request_rules();

/// The rule of a back end's request, or null when the text has no such request.
[[nodiscard]] const BackendRequestRule* find_backend_rule(uint32_t request);

/// "BACKEND_IOTLB_MSG", or "back-end request 99" for one that is not in the text.
[[nodiscard]] std::string backend_request_name(uint32_t request);

/// Checks everything of a request that its rule speaks of: payload size, number of descriptors
/// and whether what it belongs to was negotiated. kProtocol or kUnsupported with one sentence.
[[nodiscard]] Status check_request(const RequestRule& rule, const Message& message,
                                   const Negotiated& negotiated);

/// Names of the protocol features in `bits`, for people: "MQ", "REPLY_ACK"; unknown ones "bit 40".
[[nodiscard]] std::vector<std::string> protocol_feature_names(uint64_t bits);

}  // namespace pollux::vhost
