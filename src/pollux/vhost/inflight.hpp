// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "pollux/base/fd.hpp"
#include "pollux/base/result.hpp"
#include "pollux/mem/peer_memory.hpp"
#include "pollux/mem/shared_region.hpp"
#include "pollux/ring/packed_inflight.hpp"
#include "pollux/ring/packed_layout.hpp"
#include "pollux/spec/inflight.hpp"
#include "pollux/spec/vhost_user.hpp"

namespace pollux::vhost {

/// Which of the text's two layouts a region has.
enum class InflightFormat : uint8_t { kSplit, kPacked };

/// What a back end before this one left of a packed ring.
struct PackedRemains {
  ring::PackedCursor next;               ///< where the next used descriptor goes
  std::vector<ring::PackedLeft> chains;  ///< taken and not returned, in the order of taking
};

/// A front end's in-flight region, mapped. Text: "Inflight I/O tracking".
///
/// What a back end notes there is which chains it has taken and not returned. Devices of ours
/// return split chains in the order in which they take them, so that all this is known from the
/// used index alone: for them every entry says "not in flight" at any moment, which is just what
/// another back end needs that goes on at the used index, and costs a data path nothing. A packed
/// ring has no such index, and is written over while a batch is shown: its device notes both, a
/// batch at a time (ring::PackedInflight). What another back end has noted is read and honoured
/// when a ring starts.
///
/// The memory is the peer's: everything is read once, checked, and every walk is bounded.
class InflightRegion {
 public:
  /// Bytes of the region of one queue, and of `queues` of them.
  [[nodiscard]] static size_t queue_bytes(uint16_t queue_size, InflightFormat format);

  /// Makes a region of zeros for GET_INFLIGHT_FD; `told` gets its size and place. Errors:
  /// kProtocol for 0 queues, more than `most` of them or an impossible queue size; kResource.
  [[nodiscard]] static Result<UniqueFd> create(spec::VhostUserInflight& told, uint16_t most,
                                               InflightFormat format);

  /// Maps what SET_INFLIGHT_FD brought. Errors: kProtocol when it is none that fits, those of
  /// PeerMapping::map.
  [[nodiscard]] static Result<std::shared_ptr<const InflightRegion>> map(
      UniqueFd fd, const spec::VhostUserInflight& told, uint16_t most, InflightFormat format);

  /// The heads of chains of a split queue of `size` entries that were taken and not returned by
  /// the back end before, in the order in which they were taken. They are noted as the batch that
  /// is being returned, so that a crash before or after the used index moves is told apart.
  /// Errors: kProtocol when the queue has no place here or its contents contradict themselves.
  [[nodiscard]] Result<std::vector<uint16_t>> recover_split(uint16_t queue, uint32_t size,
                                                            uint16_t used_idx) const;

  /// They were returned, and `used_idx` is what the used index is now.
  void commit_split(uint16_t queue, uint16_t used_idx) const;

  /// Whether a packed queue of `size` entries can be noted here.
  [[nodiscard]] bool holds_packed(uint16_t queue, uint32_t size) const {
    return format_ == InflightFormat::kPacked && queue < told_.num_queues &&
           size <= told_.queue_size;
  }
  /// Where its device notes it. Good as long as this lives; holds_packed(queue, ...).
  [[nodiscard]] ring::PackedInflight packed(uint16_t queue) const;

  /// Where the back end before stopped in a packed ring, or nothing if none has noted that, or if
  /// the ring shows that it has been another's since. The chains are noted as the batch that is
  /// being returned at `next`. Errors: kProtocol as for split queues.
  [[nodiscard]] Result<std::optional<PackedRemains>> recover_packed(
      uint16_t queue, const ring::PackedLayout& layout) const;

  /// Whether a back end has noted a packed queue of `size` entries in the region behind `fd`: for
  /// front ends, who have to know if it goes on.
  [[nodiscard]] static bool tells_packed(int fd, const spec::VhostUserInflight& told,
                                         uint16_t queue, uint32_t size);

 private:
  [[nodiscard]] static std::unexpected<Error> contradicts(uint16_t queue);
  [[nodiscard]] static std::unexpected<Error> no_place(uint16_t queue, uint32_t size);

  InflightRegion(std::shared_ptr<PeerMapping> mapping, const spec::VhostUserInflight& told,
                 InflightFormat format)
      : mapping_(std::move(mapping)), told_(told), format_(format) {}
  [[nodiscard]] std::byte* queue(uint16_t index) const;

  std::shared_ptr<PeerMapping> mapping_;
  spec::VhostUserInflight told_;
  InflightFormat format_;
};

}  // namespace pollux::vhost
