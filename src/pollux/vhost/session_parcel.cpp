// SPDX-License-Identifier: Apache-2.0
#include "pollux/vhost/session_parcel.hpp"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include <nlohmann/json.hpp>

namespace pollux::vhost {
namespace {

using Json = nlohmann::json;

int64_t lend(const SharedFd& fd, FdParcel& fds) {
  return fds.lend(fd ? fd->get() : FdParcel::kNone);
}

Result<SharedFd> take(const Json& number, FdParcel& fds) {
  auto fd = fds.take(number.get<int64_t>());
  if (!fd) return forward(fd);
  return *fd ? std::make_shared<const UniqueFd>(std::move(*fd)) : SharedFd();
}

Json pack_slot(const MemorySlot& slot, FdParcel& fds) {
  return {{"guest", slot.region.guest_phys_addr}, {"size", slot.region.memory_size},
          {"user", slot.region.userspace_addr},   {"offset", slot.region.mmap_offset},
          {"references", slot.references},        {"fd", lend(slot.fd, fds)}};
}

Result<MemorySlot> unpack_slot(const Json& json, FdParcel& fds) {
  MemorySlot slot;
  slot.region = {json.at("guest"), json.at("size"), json.at("user"), json.at("offset")};
  slot.references = json.at("references");
  auto fd = take(json.at("fd"), fds);
  if (!fd) return forward(fd);
  if (!*fd) return fail(ErrorCode::kProtocol, "a memory region came without its descriptor");
  slot.fd = std::move(*fd);
  return slot;
}

Json pack_vring(const VringState& vring, FdParcel& fds) {
  return {{"size", vring.size},
          {"addresses_known", vring.addresses_known},
          {"flags", vring.flags},
          {"desc", vring.desc.value},
          {"used", vring.used.value},
          {"avail", vring.avail.value},
          {"log", vring.log.value},
          {"base", vring.base},
          {"base_known", vring.base_known},
          {"base_ours", vring.base_ours},
          {"enable_known", vring.enable_known},
          {"kick_known", vring.kick_known},
          {"call_known", vring.call_known},
          {"err_known", vring.err_known},
          {"enabled", vring.controls.enabled},
          {"kick", lend(vring.controls.kick, fds)},
          {"call", lend(vring.controls.call, fds)},
          {"err", lend(vring.controls.err, fds)},
          {"stopped_because", vring.stopped_because}};
}

Result<VringState> unpack_vring(const Json& json, FdParcel& fds) {
  VringState vring;
  vring.size = json.at("size");
  vring.addresses_known = json.at("addresses_known");
  vring.flags = json.at("flags");
  vring.desc = UserAddr{json.at("desc").get<uint64_t>()};
  vring.used = UserAddr{json.at("used").get<uint64_t>()};
  vring.avail = UserAddr{json.at("avail").get<uint64_t>()};
  vring.log = GuestAddr{json.at("log").get<uint64_t>()};
  vring.base = json.at("base");
  vring.base_known = json.at("base_known");
  vring.base_ours = json.at("base_ours");
  vring.enable_known = json.at("enable_known");
  vring.kick_known = json.at("kick_known");
  vring.call_known = json.at("call_known");
  vring.err_known = json.at("err_known");
  vring.controls.enabled = json.at("enabled");
  const std::pair<const char*, SharedFd*> descriptors[] = {
      {"kick", &vring.controls.kick}, {"call", &vring.controls.call}, {"err", &vring.controls.err}};
  for (const auto& [name, to] : descriptors) {
    auto fd = take(json.at(name), fds);
    if (!fd) return forward(fd);
    *to = std::move(*fd);
  }
  vring.stopped_because = json.at("stopped_because");
  return vring;
}

// What is counted of an IOMMU, by name.
constexpr std::pair<const char*, uint64_t IotlbCounters::*> kIotlbCounters[] = {
    {"misses", &IotlbCounters::misses},   {"updates", &IotlbCounters::updates},
    {"faults", &IotlbCounters::faults},   {"invalidations", &IotlbCounters::invalidations},
    {"overdue", &IotlbCounters::overdue}, {"refused", &IotlbCounters::refused}};

/// There may be thousands of mappings: each is a list of four numbers.
Json pack_iotlb(const SessionState& state) {
  Json mappings = Json::array();
  for (const Iotlb::Mapping& mapping : state.mappings) {
    mappings.push_back({mapping.iova, mapping.size, mapping.user.value, mapping.access});
  }
  Json json{{"mappings", std::move(mappings)}};
  for (const auto& [name, counter] : kIotlbCounters) json[name] = state.iotlb.*counter;
  return json;
}

void unpack_iotlb(const Json& json, SessionState& state) {
  for (const Json& mapping : json.at("mappings")) {
    state.mappings.push_back(
        {mapping.at(0), mapping.at(1), UserAddr{mapping.at(2).get<uint64_t>()}, mapping.at(3)});
  }
  for (const auto& [name, counter] : kIotlbCounters) state.iotlb.*counter = json.at(name);
}

}  // namespace

Json pack(const SessionState& state, FdParcel& fds) {
  Json slots = Json::array();
  for (const MemorySlot& slot : state.slots) slots.push_back(pack_slot(slot, fds));
  Json vrings = Json::array();
  for (const VringState& vring : state.vrings) vrings.push_back(pack_vring(vring, fds));
  return {{"version", state.version},
          {"owned", state.owned},
          {"features_known", state.features_known},
          {"features", state.features},
          {"protocol_features", state.protocol_features},
          {"status", state.status},
          {"mtu", state.mtu},
          {"slots", std::move(slots)},
          {"vrings", std::move(vrings)},
          {"log", lend(state.log.fd, fds)},
          {"log_size", state.log.place.mmap_size},
          {"log_offset", state.log.place.mmap_offset},
          {"log_event", lend(state.log.event, fds)},
          {"inflight", lend(state.inflight_fd, fds)},
          {"inflight_size", state.inflight.mmap_size},
          {"inflight_offset", state.inflight.mmap_offset},
          {"inflight_queues", state.inflight.num_queues},
          {"inflight_queue_size", state.inflight.queue_size},
          {"backend_channel", lend(state.backend_channel, fds)},
          {"channel_problem", state.channel_problem},
          {"iotlb", pack_iotlb(state)},
          {"messages", state.messages},
          {"last_problem", state.last_problem}};
}

Result<SessionState> unpack(const Json& values, FdParcel& fds) {
  SessionState state;
  if (const uint32_t version = values.at("version"); version != SessionState::kVersion) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("sessions of version {} are not known here, only those of version {}",
                            version, SessionState::kVersion));
  }
  state.owned = values.at("owned");
  state.features_known = values.at("features_known");
  state.features = values.at("features");
  state.protocol_features = values.at("protocol_features");
  state.status = values.at("status");
  state.mtu = values.at("mtu");
  for (const Json& json : values.at("slots")) {
    auto slot = unpack_slot(json, fds);
    if (!slot) return forward(slot);
    state.slots.push_back(std::move(*slot));
  }
  for (const Json& json : values.at("vrings")) {
    auto vring = unpack_vring(json, fds);
    if (!vring) return forward(vring);
    state.vrings.push_back(std::move(*vring));
  }
  auto log = take(values.at("log"), fds);
  if (!log) return forward(log);
  auto log_event = take(values.at("log_event"), fds);
  if (!log_event) return forward(log_event);
  state.log = {
      {values.at("log_size"), values.at("log_offset")}, std::move(*log), std::move(*log_event)};
  auto inflight = take(values.at("inflight"), fds);
  if (!inflight) return forward(inflight);
  state.inflight_fd = std::move(*inflight);
  state.inflight.mmap_size = values.at("inflight_size");
  state.inflight.mmap_offset = values.at("inflight_offset");
  state.inflight.num_queues = values.at("inflight_queues");
  state.inflight.queue_size = values.at("inflight_queue_size");
  auto channel = take(values.at("backend_channel"), fds);
  if (!channel) return forward(channel);
  state.backend_channel = std::move(*channel);
  state.channel_problem = values.at("channel_problem");
  unpack_iotlb(values.at("iotlb"), state);
  state.messages = values.at("messages");
  state.last_problem = values.at("last_problem");
  return state;
}

}  // namespace pollux::vhost
