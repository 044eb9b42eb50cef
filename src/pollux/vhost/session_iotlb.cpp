// SPDX-License-Identifier: Apache-2.0
// A session behind a virtual IOMMU: what the front end says of its mappings, and what it is asked.
// Text: "IOMMU support". ARCHITECTURE.md follows a miss from a worker to here and back.
#include <fmt/format.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "pollux/vhost/backend_session.hpp"

namespace pollux::vhost {
namespace {

constexpr uint64_t kEnd = std::numeric_limits<uint64_t>::max();
// Questions on their way at a time: the front end answers one after the other anyway.
constexpr size_t kMaxAsked = 32;
// Tables that may wait for the workers to be done with them.
constexpr size_t kMaxRetired = 64;

/// The last address of `size` bytes from `first` on. A front end that drops everything may say so
/// with a size of 2^64, which is 0, and forgetting too much does no harm.
uint64_t last_of(uint64_t first, uint64_t size) {
  return size == 0 || size - 1 > kEnd - first ? kEnd : first + (size - 1);
}

}  // namespace

/// An empty cache for the features that were negotiated, or none.
Status BackendSession::set_up_iotlb() {
  misses_.clear();
  asked_ = 0;
  ++iotlb_epoch_;
  iommu_rings_.assign(offer_.vrings, {});
  iotlb_.reset();
  bell_.reset();
  if ((state_.features & spec::VIRTIO_F_ACCESS_PLATFORM) == 0) return {};
  UniqueFd bell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!bell) return fail_errno(errno, "can not make the eventfd by which workers report misses");
  bell_ = std::make_shared<MissBell>(std::move(bell));
  iotlb_ = std::make_shared<Iotlb>(memory_);
  return {};
}

/// After a hand-over: what the front end has told another process is not asked for again.
Status BackendSession::restore_mappings() {
  if (auto ok = set_up_iotlb(); !ok || !iotlb_) return ok;
  for (const Iotlb::Mapping& mapping : std::exchange(state_.mappings, {})) {
    if (auto ok = iotlb_->update(mapping); !ok) return ok;
  }
  iotlb_->publish();
  return {};
}

/// Other memory; no ring runs. Mappings move with it.
void BackendSession::rebase_iotlb() {
  if (!iotlb_) return;
  iotlb_->rebase(memory_);
  iotlb_->publish();
  iotlb_->reclaim();
}

/// No ring runs, and the front end stopped them: what it changes from now on it may not tell.
void BackendSession::forget_mappings() {
  const auto runs = [](const VringState& vring) { return vring.started; };
  if (!iotlb_ || std::any_of(state_.vrings.begin(), state_.vrings.end(), runs)) return;
  iotlb_->invalidate(0, kEnd);
  iotlb_->publish();
  iotlb_->reclaim();
  misses_.clear();
}

Result<BackendSession::Reply> BackendSession::iotlb_msg(Message& message) {
  if (!iotlb_) return fail(ErrorCode::kResource, "there is no room for an IOTLB");
  auto ok = change_mappings(*message.get<spec::vhost_iotlb_msg>());
  if (!ok && broken_) return forward(ok);
  if (!ok) {
    ++state_.iotlb.refused;
    state_.last_problem = fmt::format("IOTLB_MSG: {}", ok.error().what);
    log_.debug(state_.last_problem);
  }
  return make_reply(message.request, uint64_t{ok ? 0U : 1U});
}

Status BackendSession::change_mappings(const spec::vhost_iotlb_msg& wanted) {
  const uint64_t last = last_of(wanted.iova, wanted.size);
  switch (wanted.type) {
    case spec::VHOST_IOTLB_UPDATE:
      if (wanted.perm > spec::VHOST_ACCESS_RW) {
        return fail(ErrorCode::kProtocol, fmt::format("{} is no permission", wanted.perm));
      }
      if (auto ok = iotlb_->update({wanted.iova, wanted.size, UserAddr{wanted.uaddr}, wanted.perm});
          !ok) {
        return ok;
      }
      ++state_.iotlb.updates;
      settle_misses(wanted.iova, last, wanted.perm);
      break;
    case spec::VHOST_IOTLB_INVALIDATE:
      ++state_.iotlb.invalidations;
      iotlb_->invalidate(wanted.iova, last);
      forget_misses(wanted.iova, last);
      break;
    case spec::VHOST_IOTLB_ACCESS_FAIL:
      for (const IotlbMiss& miss : misses_.take(wanted.iova, last)) refuse_access(miss);
      break;
    default:
      return fail(ErrorCode::kProtocol,
                  fmt::format("type {} is none that a front end sends", wanted.type));
  }
  return show_mappings(wanted.iova, last);
}

/// Whoever missed something in [first, last] did so before it changed, and may be done with it: the
/// front end would refuse what nobody wants any more. Who still wants it says so again.
void BackendSession::forget_misses(uint64_t first, uint64_t last) {
  collect_misses();
  if (!misses_.take(first, last).empty()) iotlb_->ask_again();
}

/// What was asked for in [first, last] has been answered; whatever was not granted is refused.
void BackendSession::settle_misses(uint64_t first, uint64_t last, uint8_t granted) {
  for (const IotlbMiss& miss : misses_.take(first, last)) {
    if ((static_cast<uint8_t>(miss.access) & ~granted) != 0) refuse_access(miss);
  }
}

void BackendSession::refuse_access(const IotlbMiss& miss) {
  ++state_.iotlb.faults;
  iotlb_->deny(miss.iova & ~IotlbMiss::kPageMask, miss.iova | IotlbMiss::kPageMask,
               static_cast<uint8_t>(miss.access));
}

/// Makes changes in [first, last] effective: when this returns well, nobody uses what was taken
/// away.
Status BackendSession::show_mappings(uint64_t first, uint64_t last) {
  if (!iotlb_->changed()) return {};
  iotlb_->publish();
  if (iotlb_->must_wait()) {
    for (uint16_t i = 0; i < offer_.vrings; ++i) {
      if (!state_.vrings[i].started || !iommu_rings_[i].lies_in(first, last)) continue;
      if (auto ok = stop(i); !ok) return ok;
      iommu_rings_[i].waits = true;
    }
  }
  if (iotlb_->must_wait() || iotlb_->retired() >= kMaxRetired) {
    if (auto ok = device_.mappings_changed(); !ok) {
      broken_ = true;
      return ok;
    }
    iotlb_->reclaim();
  }
  for (uint16_t i = 0; i < offer_.vrings; ++i) {
    if (iommu_rings_[i].waits) try_start(i);
  }
  ask_misses();
  return {};
}

/// Looks for all parts, so that all that is missing is asked for at once.
Result<RingLayout> BackendSession::find_ring_behind_iommu(uint16_t index) {
  IommuRing& ring = iommu_rings_[index];
  ring.parts.clear();
  auto layout = translate_ring(state_.vrings[index], state_.features, [&](const RingPart& part) {
    ring.parts.emplace_back(part.at, last_of(part.at, part.size));
    return find_iova(part);
  });
  ring.waits = !layout;
  ask_misses();
  return layout;
}

/// Where a part of a ring lies. kNotFound when that is not known: then it has been asked for.
Result<std::byte*> BackendSession::find_iova(const RingPart& part) {
  const IotlbTable& table = *iotlb_->table();
  std::byte* start = nullptr;
  bool missing = false;
  for (uint64_t done = 0; done < part.size;) {
    const uint64_t at = part.at + done;
    const Translation found = table.translate(at, part.size - done, part.access);
    if (found.status == TranslationStatus::kFault || at < part.at) {
      return fail(ErrorCode::kProtocol, fmt::format("its {} at {:#x} is not accessible: the IOMMU "
                                                    "refuses it",
                                                    part.name, at));
    }
    if (found.status == TranslationStatus::kMiss) {
      missing = true;
      (void)misses_.add({at, part.access});
      done += IotlbMiss::kPageMask + 1 - (at & IotlbMiss::kPageMask);
      continue;
    }
    if (done == 0) start = found.data;
    if (!missing && found.data != start + done) {
      return fail(ErrorCode::kUnsupported,
                  fmt::format("its {} ({} bytes at {:#x}) is scattered over the guest's memory",
                              part.name, part.size, part.at));
    }
    done += found.size;
  }
  if (!missing) return start;
  return fail(ErrorCode::kNotFound,
              fmt::format("the IOMMU has not said yet where its {} at {:#x} lies{}", part.name,
                          part.at, channel_ ? "" : ", and there is no channel to ask on"));
}

Status BackendSession::serve_misses() {
  if (!iotlb_) return {};
  collect_misses();
  ask_misses();
  return whole();
}

/// Takes note of what the workers have reported.
void BackendSession::collect_misses() {
  bell_->answer();
  for (const IommuRing& ring : iommu_rings_) {
    if (!ring.reader) continue;
    for (IotlbMiss miss; ring.reader->take(miss);) {
      // It may have been answered since.
      const auto status = iotlb_->table()->translate(miss.iova, 1, miss.access).status;
      if (status == TranslationStatus::kMiss) (void)misses_.add(miss);
    }
  }
}

void BackendSession::ask_misses() {
  while (channel_ && asked_ < kMaxAsked) {
    const auto question = misses_.next();
    if (!question) return;
    if (ask(*question)) continue;
    misses_.put_back(*question);
    return;  // the channel is full: what makes room in it leads back here
  }
}

/// Asks the front end for one translation, and for no less access than it has granted before.
bool BackendSession::ask(const MissLedger::Question& question) {
  const IotlbMiss& miss = question.miss;
  const IotlbRun* known = iotlb_->table()->find(miss.iova);
  spec::vhost_iotlb_msg wanted{};
  wanted.iova = miss.iova;
  wanted.perm = static_cast<uint8_t>(static_cast<uint8_t>(miss.access) |
                                     (known != nullptr ? known->granted : 0));
  wanted.type = spec::VHOST_IOTLB_MISS;
  Message message = make_request(spec::VHOST_USER_BACKEND_IOTLB_MSG, wanted);
  BackendChannel::Answered answered;
  if (negotiated(spec::VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
    answered = [this, question, epoch = iotlb_epoch_](const Result<Message>& answer) {
      if (epoch == iotlb_epoch_) on_miss_answered(question, answer);
    };
  }
  const bool counted = static_cast<bool>(answered);
  if (auto sent = request(std::move(message), std::move(answered)); !sent) return false;
  if (counted) ++asked_;
  ++state_.iotlb.misses;
  return true;
}

void BackendSession::on_miss_answered(const MissLedger::Question& question,
                                      const Result<Message>& answer) {
  --asked_;
  if (!answer) {
    misses_.put_back(question);  // for the next channel
    return;
  }
  if (*answer->get<uint64_t>() == 0) {
    misses_.done(question);  // its update came before, or is on its way
  } else if (misses_.settle(question)) {
    refuse_access(question.miss);
    (void)show_mappings(question.miss.iova, question.miss.iova);  // a failure shows in broken_
  }
  ask_misses();
}

void BackendSession::tick_misses() {
  if (!iotlb_) return;
  for (const IotlbMiss& miss : misses_.tick()) {
    refuse_access(miss);
    (void)show_mappings(miss.iova, miss.iova);
  }
  state_.iotlb.overdue = misses_.overdue();
  ask_misses();
}

}  // namespace pollux::vhost
