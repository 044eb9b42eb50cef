// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/base/strong.hpp"
#include "pollux/mem/iotlb_table.hpp"
#include "pollux/mem/peer_memory.hpp"

namespace pollux {

/// What a peer's IOMMU has told us of its mappings: a bounded cache (VIRTIO 1.3, 6.1
/// VIRTIO_F_ACCESS_PLATFORM; vhost-user: "IOMMU support"). Control keeps it; workers see what was
/// published last, as an immutable table.
///
/// A change has three steps. Control changes the cache; `publish` shows it to the workers; once
/// every worker has passed a quiescent point, nobody uses what was there before, and `reclaim`
/// frees it. Only then may a front end be told that a mapping is gone (`must_wait`).
class Iotlb {
 public:
  /// Runs that are kept at most; mappings that continue each other make one run. A mapping more,
  /// and the older half is forgotten: it will be asked for again.
  static constexpr size_t kMaxRuns = 8192;

  struct Mapping {
    uint64_t iova = 0;
    uint64_t size = 0;
    UserAddr user;
    uint8_t access = 0;  ///< MemoryAccess bits; 0: nobody may
  };

  /// `memory` is what user addresses point into; it may be null as long as nothing is mapped.
  explicit Iotlb(std::shared_ptr<const PeerMemory> memory = nullptr);
  ~Iotlb();
  Iotlb(const Iotlb&) = delete;
  Iotlb& operator=(const Iotlb&) = delete;

  // Control.

  /// Adds a mapping, in the place of what it overlaps. kInvalidArgument when it is empty, wraps
  /// around, or points outside of the memory; nothing is changed then.
  [[nodiscard]] Status update(const Mapping& mapping);

  /// Forgets all in [first, last].
  void invalidate(uint64_t first, uint64_t last);

  /// The IOMMU refuses `access` to what is not granted in [first, last]: such a translation is a
  /// fault from now on, until an update or invalidation says otherwise.
  void deny(uint64_t first, uint64_t last, uint8_t access);

  /// Other memory in the place of the old: mappings move with their user addresses, and those that
  /// point to nowhere now are forgotten. No worker may be using the old one.
  void rebase(std::shared_ptr<const PeerMemory> memory);

  /// Asks workers to report anew what they miss.
  void ask_again() { changed_ = true; }

  /// True when the workers have not been shown the last change.
  [[nodiscard]] bool changed() const { return changed_; }
  /// True when something was taken away that workers may use: after `publish` they must all pass a
  /// quiescent point before anybody is told.
  [[nodiscard]] bool must_wait() const { return must_wait_; }

  /// Shows the changes to the workers.
  void publish();
  /// All workers have passed a quiescent point since the last `publish`.
  void reclaim();
  /// Tables that wait for `reclaim`.
  [[nodiscard]] size_t retired() const { return retired_.size(); }

  [[nodiscard]] size_t runs() const { return runs_.size(); }
  /// All that is mapped, for another process to go on with: as few mappings as say it. What was
  /// refused is not among it.
  [[nodiscard]] std::vector<Mapping> mappings() const;
  /// Runs forgotten because of the bound, so far.
  [[nodiscard]] uint64_t evicted() const { return evicted_; }

  // Any thread.

  /// What was published last; never null. Good until its user's next quiescent point.
  [[nodiscard]] const IotlbTable* table() const noexcept { return published_.load(); }

 private:
  struct Run {
    IotlbRun run;
    UserAddr user;
    uint64_t age;  // number of the update that made it
  };
  using Map = std::map<uint64_t, Run>;

  [[nodiscard]] Result<Run> locate(const Mapping& mapping) const;
  [[nodiscard]] bool known(const Run& run) const;
  [[nodiscard]] Map::iterator first_behind(uint64_t iova);
  bool carve(uint64_t first, uint64_t last);
  void insert(Run run);
  void make_room();

  std::shared_ptr<const PeerMemory> memory_;
  Map runs_;                     // by first address
  std::vector<IotlbRun> added_;  // since the last table, if nothing else was done
  bool rebuild_ = false;         // something else was done
  bool changed_ = false;
  bool must_wait_ = false;
  uint64_t updates_ = 0;
  uint64_t evicted_ = 0;
  std::unique_ptr<const IotlbTable> latest_;
  std::vector<std::unique_ptr<const IotlbTable>> retired_;
  std::atomic<const IotlbTable*> published_;
};

}  // namespace pollux
