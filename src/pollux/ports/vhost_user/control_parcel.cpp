// SPDX-License-Identifier: Apache-2.0
#include "pollux/ports/vhost_user/control_parcel.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace pollux::vhost_user {
namespace {

using Json = nlohmann::json;
using virtio::RxFilterState;

constexpr std::pair<const char*, bool RxFilterState::*> kModes[] = {
    {"promisc", &RxFilterState::promisc},
    {"allmulti", &RxFilterState::allmulti},
    {"alluni", &RxFilterState::alluni},
    {"nomulti", &RxFilterState::nomulti},
    {"nouni", &RxFilterState::nouni},
    {"nobcast", &RxFilterState::nobcast},
    {"vlan_filter", &RxFilterState::vlan_filter}};

Json pack_table(const RxFilterState::MacTable& table) {
  Json macs = Json::array();
  for (const net::MacAddress& mac : table.macs) macs.push_back(mac.key());
  return {{"macs", std::move(macs)}, {"overflow", table.overflow}};
}

RxFilterState::MacTable unpack_table(const Json& json) {
  RxFilterState::MacTable table;
  for (const Json& key : json.at("macs")) table.macs.push_back(net::MacAddress::from_key(key));
  table.overflow = json.at("overflow");
  return table;
}

Json pack_filter(const RxFilterState& filter) {
  Json json{{"unicast", pack_table(filter.unicast)},
            {"multicast", pack_table(filter.multicast)},
            {"vlans", filter.vlans.to_string()}};
  for (const auto& [name, mode] : kModes) json[name] = filter.*mode;
  if (filter.mac) json["mac"] = filter.mac->key();
  return json;
}

RxFilterState unpack_filter(const Json& json) {
  RxFilterState filter;
  filter.unicast = unpack_table(json.at("unicast"));
  filter.multicast = unpack_table(json.at("multicast"));
  const std::string vlans = json.at("vlans");
  for (size_t i = 0; i < std::min(vlans.size(), filter.vlans.size()); ++i) {
    filter.vlans[i] = vlans[vlans.size() - 1 - i] == '1';
  }
  for (const auto& [name, mode] : kModes) filter.*mode = json.at(name);
  if (json.contains("mac")) filter.mac = net::MacAddress::from_key(json.at("mac"));
  return filter;
}

}  // namespace

Json pack_control(const virtio::NetControlState& state) {
  Json key = Json::array();
  for (const std::byte b : state.hash.key) key.push_back(static_cast<uint8_t>(b));
  Json json{{"filter", pack_filter(state.filter)},
            {"queue_pairs", state.queue_pairs},
            {"hash_types", state.hash.types},
            {"hash_key", std::move(key)},
            {"guest_offloads", state.guest_offloads}};
  if (state.rss) json["rss"] = {{"table", state.rss->table}, {"rest", state.rss->unclassified}};
  return json;
}

virtio::NetControlState unpack_control(const Json& values) {
  virtio::NetControlState state;
  state.filter = unpack_filter(values.at("filter"));
  state.queue_pairs = values.at("queue_pairs");
  state.hash.types = values.at("hash_types");
  for (const Json& b : values.at("hash_key")) {
    state.hash.key.push_back(static_cast<std::byte>(b.get<uint8_t>()));
  }
  state.guest_offloads = values.at("guest_offloads");
  if (values.contains("rss")) {
    const Json& rss = values.at("rss");
    state.rss = virtio::RssState{rss.at("table"), rss.at("rest")};
  }
  return state;
}

}  // namespace pollux::vhost_user
