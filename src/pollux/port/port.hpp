// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pollux/base/clock.hpp"
#include "pollux/base/event_loop.hpp"
#include "pollux/base/log.hpp"
#include "pollux/base/result.hpp"
#include "pollux/net/ethernet.hpp"
#include "pollux/packet/pool.hpp"
#include "pollux/port/queue.hpp"
#include "pollux/port/quiescence.hpp"

namespace pollux {

class RingRegistry;
struct PortParcel;

/// What a port may use of the program that it lives in. All of it outlives the port.
struct PortContext {
  Pool& pool;
  EventLoop& loop;
  Quiescence& quiescence;
  const Clock& clock;
  /// Rings that `ring:` ports of one program meet at.
  RingRegistry& rings;
  Log log;
  /// Threads that may send to the port at once. Sender i uses tx_queues()[i % count] only.
  unsigned senders = 1;
  /// Directory for what is to be there after a crash; empty: none.
  std::string state_dir = {};
};

/// What is true of a port now; for people and for the control API.
struct PortInfo {
  std::string kind;      ///< "vhost-user"
  std::string target;    ///< "/run/v0.sock"
  bool link_up = false;  ///< a peer is there and its queues are usable
  std::string peer;      ///< who is at the other end, e.g. "pid 4711 (qemu)"; empty if nobody
  std::string state;     ///< one sentence, e.g. "waiting for a front end to connect"
  std::string broken;    ///< why the peer's queue was stopped, empty when it was not
  uint16_t rx_queues = 0;
  uint16_t tx_queues = 0;
  uint16_t mtu = 0;  ///< 0: not known
  std::optional<net::MacAddress> mac;
  uint64_t features = 0;                   ///< negotiated virtio bits, 0 for other kinds
  std::vector<std::string> feature_names;  ///< the same, by name
  std::vector<std::string> protocol_feature_names;
  struct Ring {
    std::string name;  ///< "rx0", "tx0" as the switch sees it
    uint32_t size = 0;
    bool enabled = false;
    std::string format;  ///< "split", "packed in-order"; empty while it does not run
  };
  std::vector<Ring> rings;
  std::string control;  ///< what the peer set by its control queue: filters, queues in use
  std::string memory;   ///< what the peer shared: "1 region, 512 MiB"
  std::string iommu;    ///< what has passed between us and the guest's IOMMU; empty without one
};

/// One way in and out of the switch. This interface is cold: packets pass through the queue
/// handles. Unless said otherwise, called by the control thread only.
///
/// A port kind implements this, registers in ports/kinds.cpp, and reads its spec with SpecReader.
class Port {
 public:
  virtual ~Port() = default;

  /// Makes the port reachable: listens, opens, connects. Queue handles may be used from now on,
  /// whether a peer is there or not. Called once.
  [[nodiscard]] virtual Status start() = 0;

  /// Makes the port unreachable and lets its peer go. The caller has taken the queue handles from
  /// all workers before and waited for quiescence. Called once; the destructor calls it otherwise.
  virtual void stop() noexcept = 0;

  // Hand-over to another process (port/parcel.hpp), where the same port goes on. The workers are at
  // rest. A port that can do it overrides all of them.

  /// Why it can not be done, with advice: kUnsupported.
  [[nodiscard]] virtual Status can_hand_over() const {
    return fail(ErrorCode::kUnsupported,
                "ports of this kind can not be handed over: take it away first (pollux port del)");
  }
  /// Brings the port to rest and packs what another process needs. Then either resume() or
  /// release() is called, or stop().
  [[nodiscard]] virtual Status save(PortParcel& /*to*/) { return can_hand_over(); }
  /// Nobody took over: the port goes on. Also called for ports that were not saved.
  virtual void resume() {}
  /// Another process has the port now: from here on, stop() leaves peers and files alone.
  virtual void release() {}
  /// Instead of start(), once: goes on from what save() packed in another process.
  [[nodiscard]] virtual Status adopt(PortParcel& /*from*/) { return can_hand_over(); }

  [[nodiscard]] virtual PortInfo info() const = 0;

  /// Queue handles; constant in number from construction on, valid until stop(). There may be more
  /// of tx than the port has queues, so that each sender has one of its own; handle i then sends to
  /// queue i modulo info().tx_queues.
  [[nodiscard]] virtual std::vector<RxQueue> rx_queues() = 0;
  [[nodiscard]] virtual std::vector<TxQueue> tx_queues() = 0;

  /// True for a port that delivers a bounded number of packets, like a capture file.
  [[nodiscard]] virtual bool can_finish() const { return false; }

  /// True when everything that such a port will ever deliver was delivered.
  [[nodiscard]] virtual bool finished() const { return false; }
};

}  // namespace pollux
