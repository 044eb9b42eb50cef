// SPDX-License-Identifier: Apache-2.0
#include "pollux/control/config_parcel.hpp"

#include <cstring>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

namespace pollux::control {
namespace {

using Json = nlohmann::json;

/// An address as it travels.
struct WireEntry {
  uint64_t mac_and_vlan;  // the MacAddress::key() below, the VLAN in the upper 16 bits
  uint32_t last_seen_s;
  uint16_t port;
  uint16_t zero;
};
static_assert(sizeof(WireEntry) == 16);

}  // namespace

Json pack_config(const SwitchConfig& config, const std::vector<NumberedPort>& ports) {
  Json list = Json::array();
  for (const NumberedPort& port : ports) {
    list.push_back(
        {{"index", port.index}, {"name", port.port.name}, {"spec", port.port.spec.to_string()}});
  }
  return {{"cpus", config.engine.cpus},
          {"idle", static_cast<int>(config.engine.idle)},
          {"fdb_capacity", config.engine.fdb.capacity},
          {"fdb_age", config.engine.fdb.max_age_s},
          {"seed", config.seed.value_or(0)},
          {"pool_packets", config.pool.packets},
          {"pool_buffers", config.pool.buffers},
          {"buffer_size", config.pool.buffer_size},
          {"pages", static_cast<int>(config.pool.pages)},
          {"control", config.control_socket},
          {"control_mode", config.control_mode},
          {"state", config.state_dir},
          {"ports", std::move(list)}};
}

Result<UnpackedConfig> unpack_config(const Json& values) {
  UnpackedConfig out;
  SwitchConfig& config = out.config;
  config.engine.cpus = values.at("cpus").get<std::vector<int>>();
  config.engine.idle = static_cast<IdlePolicy>(values.at("idle").get<int>());
  config.engine.fdb.capacity = values.at("fdb_capacity");
  config.engine.fdb.max_age_s = values.at("fdb_age");
  config.seed = values.at("seed").get<uint64_t>();
  config.pool.packets = values.at("pool_packets");
  config.pool.buffers = values.at("pool_buffers");
  config.pool.buffer_size = values.at("buffer_size");
  config.pool.pages = static_cast<HugePages>(values.at("pages").get<int>());
  config.control_socket = values.at("control");
  config.control_mode = values.at("control_mode");
  config.state_dir = values.at("state");
  for (const Json& json : values.at("ports")) {
    auto spec = PortSpec::parse(json.at("spec").get<std::string>());
    if (!spec) return forward(spec);
    out.ports.push_back({json.at("index"), {json.at("name"), std::move(*spec)}});
  }
  return out;
}

Json pack_addresses(const std::vector<stage::FdbEntry>& entries) {
  std::vector<uint8_t> bytes(entries.size() * sizeof(WireEntry));
  for (size_t i = 0; i < entries.size(); ++i) {
    const stage::FdbEntry& entry = entries[i];
    const WireEntry wire{entry.mac.key() | uint64_t{entry.vlan} << 48, entry.last_seen_s,
                         entry.port, 0};
    std::memcpy(bytes.data() + i * sizeof wire, &wire, sizeof wire);
  }
  return Json::binary(std::move(bytes));
}

std::vector<stage::FdbEntry> unpack_addresses(const Json& value) {
  const auto& bytes = value.get_binary();
  std::vector<stage::FdbEntry> entries(bytes.size() / sizeof(WireEntry));
  for (size_t i = 0; i < entries.size(); ++i) {
    WireEntry wire;
    std::memcpy(&wire, bytes.data() + i * sizeof wire, sizeof wire);
    entries[i] = {net::MacAddress::from_key(wire.mac_and_vlan & net::MacAddress::kKeyMask),
                  static_cast<uint16_t>(wire.mac_and_vlan >> 48), wire.port, wire.last_seen_s};
  }
  return entries;
}

}  // namespace pollux::control
