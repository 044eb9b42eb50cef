// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "pollux/control/config.hpp"
#include "pollux/control/report.hpp"
#include "pollux/port/spec.hpp"

namespace pollux::control {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kNanosPerSecond = 1e9;

// Names come from users and peers: bytes that are no UTF-8 must not make dump() throw.
std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// ---- to JSON
// -------------------------------------------------------------------------------------

Json drops_json(const std::array<uint64_t, kDropReasonCount>& drops) {
  Json json = Json::object();
  for (size_t r = 0; r < kDropReasonCount; ++r) {
    if (drops[r] != 0) json[std::string(kDropReasons[r].name)] = drops[r];
  }
  return json;
}

Json flow_json(const FlowTotals& flow) {
  return {{"packets", flow.packets},
          {"bytes", flow.bytes},
          {"dropped", flow.dropped()},
          {"drops", drops_json(flow.drops)}};
}

Json queue_json(const QueueStats& queue) {
  Json json{{"name", queue.name},
            {"packets", queue.packets},
            {"bytes", queue.bytes},
            {"drops", drops_json(queue.drops)}};
  json["worker"] = queue.worker < 0 ? Json(nullptr) : Json(queue.worker);
  json["mode"] = queue.worker < 0 ? Json(nullptr) : Json(control::queue_mode_name(queue.mode));
  return json;
}

Json info_json(const PortInfo& info) {
  Json rings = Json::array();
  for (const PortInfo::Ring& ring : info.rings) {
    rings.push_back({{"name", ring.name},
                     {"size", ring.size},
                     {"enabled", ring.enabled},
                     {"format", ring.format}});
  }
  Json json{{"kind", info.kind},
            {"target", info.target},
            {"link_up", info.link_up},
            {"peer", info.peer},
            {"state", info.state},
            {"broken", info.broken},
            {"rx_queues", info.rx_queues},
            {"tx_queues", info.tx_queues},
            {"mtu", info.mtu},
            {"features", fmt::format("{:#x}", info.features)},
            {"feature_names", info.feature_names},
            {"protocol_feature_names", info.protocol_feature_names},
            {"rings", std::move(rings)},
            {"control", info.control},
            {"memory", info.memory},
            {"iommu", info.iommu}};
  json["mac"] = info.mac ? Json(info.mac->to_text()) : Json(nullptr);
  return json;
}

Json port_json(const PortStats& port) {
  Json json{{"name", port.name}, {"index", port.index}};
  json.update(info_json(port.info));
  json["rx"] = flow_json(totals(port, "rx"));
  json["tx"] = flow_json(totals(port, "tx"));
  json["queues"] = Json::array();
  for (const QueueStats& queue : port.queues) json["queues"].push_back(queue_json(queue));
  return json;
}

Json ports_json(std::span<const PortStats> ports) {
  Json json = Json::array();
  for (const PortStats& port : ports) json.push_back(port_json(port));
  return json;
}

Json workers_json(std::span<const WorkerStats> workers) {
  Json json = Json::array();
  for (const WorkerStats& worker : workers) {
    json.push_back({{"cpu", worker.cpu < 0 ? Json(nullptr) : Json(worker.cpu)},
                    {"rx_queues", worker.rx_queues},
                    {"turns", worker.turns},
                    {"empty_turns", worker.empty_turns},
                    {"packets", worker.packets},
                    {"busy_cycles", worker.busy_cycles},
                    {"idle_cycles", worker.idle_cycles},
                    {"sleeps", worker.sleeps},
                    {"floods", worker.floods},
                    {"flood_copies", worker.flood_copies},
                    {"gso_packets", worker.gso_packets},
                    {"gso_segments", worker.gso_segments},
                    {"gro_segments", worker.gro_segments},
                    {"gro_packets", worker.gro_packets}});
  }
  return json;
}

Json pool_json(const SwitchSnapshot::Pool& pool) {
  return {{"packets", pool.packets},         {"packets_free", pool.packets_free},
          {"buffers", pool.buffers},         {"buffers_free", pool.buffers_free},
          {"buffer_size", pool.buffer_size}, {"memory", pool.memory},
          {"page_size", pool.page_size},     {"huge_pages", pool.huge_pages}};
}

Json fdb_counters_json(const SwitchSnapshot::Fdb& fdb) {
  return {{"entries", fdb.entries}, {"capacity", fdb.capacity}, {"max_age_s", fdb.max_age_s},
          {"learned", fdb.learned}, {"moved", fdb.moved},       {"evicted", fdb.evicted},
          {"expired", fdb.expired}};
}

// ---- from JSON
// -----------------------------------------------------------------------------------

/// Reads `key` if it is there; throws when it, or what holds it, is of the wrong kind.
template <typename T>
void take(const Json& json, const char* key, T& out) {
  (void)json.get_ref<const Json::object_t&>();
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return;
  out = found->get<T>();
}

/// The elements of a list, none when there is no such key; throws when it is something else.
Json::array_t list(const Json& json, const char* key) {
  Json::array_t elements;
  take(json, key, elements);
  return elements;
}

std::array<uint64_t, kDropReasonCount> drops_from(const Json& json) {
  std::array<uint64_t, kDropReasonCount> drops{};
  for (size_t r = 0; r < kDropReasonCount; ++r) {
    take(json, std::string(kDropReasons[r].name).c_str(), drops[r]);
  }
  return drops;
}

PortInfo info_from(const Json& json) {
  PortInfo info;
  take(json, "kind", info.kind);
  take(json, "target", info.target);
  take(json, "link_up", info.link_up);
  take(json, "peer", info.peer);
  take(json, "state", info.state);
  take(json, "broken", info.broken);
  take(json, "rx_queues", info.rx_queues);
  take(json, "tx_queues", info.tx_queues);
  take(json, "mtu", info.mtu);
  take(json, "feature_names", info.feature_names);
  take(json, "protocol_feature_names", info.protocol_feature_names);
  take(json, "memory", info.memory);
  take(json, "iommu", info.iommu);
  take(json, "control", info.control);
  std::string text;
  take(json, "features", text);
  info.features = parse_number(text).value_or(0);
  text.clear();
  take(json, "mac", text);
  if (const auto mac = net::MacAddress::from_text(text)) info.mac = *mac;
  for (const Json& ring : list(json, "rings")) {
    PortInfo::Ring& added = info.rings.emplace_back();
    take(ring, "name", added.name);
    take(ring, "size", added.size);
    take(ring, "enabled", added.enabled);
    take(ring, "format", added.format);
  }
  return info;
}

PortStats port_from(const Json& json) {
  PortStats port;
  take(json, "index", port.index);
  take(json, "name", port.name);
  port.info = info_from(json);
  for (const Json& queue : list(json, "queues")) {
    QueueStats& added = port.queues.emplace_back();
    take(queue, "name", added.name);
    take(queue, "worker", added.worker);
    std::string mode;
    take(queue, "mode", mode);
    added.mode = control::parse_queue_mode(mode).value_or(QueueMode::kAdaptive);
    take(queue, "packets", added.packets);
    take(queue, "bytes", added.bytes);
    added.drops = drops_from(queue.value("drops", Json::object()));
  }
  return port;
}

WorkerStats worker_from(const Json& json) {
  WorkerStats worker;
  take(json, "cpu", worker.cpu);
  take(json, "rx_queues", worker.rx_queues);
  take(json, "turns", worker.turns);
  take(json, "empty_turns", worker.empty_turns);
  take(json, "packets", worker.packets);
  take(json, "busy_cycles", worker.busy_cycles);
  take(json, "idle_cycles", worker.idle_cycles);
  take(json, "sleeps", worker.sleeps);
  take(json, "floods", worker.floods);
  take(json, "flood_copies", worker.flood_copies);
  take(json, "gso_packets", worker.gso_packets);
  take(json, "gso_segments", worker.gso_segments);
  take(json, "gro_segments", worker.gro_segments);
  take(json, "gro_packets", worker.gro_packets);
  return worker;
}

SwitchSnapshot snapshot_from(const Json& json) {
  SwitchSnapshot snapshot;
  take(json, "version", snapshot.version);
  take(json, "pid", snapshot.pid);
  double uptime = 0;
  take(json, "uptime_s", uptime);
  snapshot.uptime = Nanos(static_cast<int64_t>(uptime * kNanosPerSecond));
  take(json, "idle", snapshot.idle);
  double pause_ms = -1;
  take(json, "take_over_pause_ms", pause_ms);
  if (pause_ms >= 0) snapshot.take_over_pause = Nanos(static_cast<int64_t>(pause_ms * 1e6));
  const Json pool = json.value("pool", Json::object());
  take(pool, "packets", snapshot.pool.packets);
  take(pool, "packets_free", snapshot.pool.packets_free);
  take(pool, "buffers", snapshot.pool.buffers);
  take(pool, "buffers_free", snapshot.pool.buffers_free);
  take(pool, "buffer_size", snapshot.pool.buffer_size);
  take(pool, "memory", snapshot.pool.memory);
  take(pool, "page_size", snapshot.pool.page_size);
  take(pool, "huge_pages", snapshot.pool.huge_pages);
  const Json fdb = json.value("fdb", Json::object());
  take(fdb, "entries", snapshot.fdb.entries);
  take(fdb, "capacity", snapshot.fdb.capacity);
  take(fdb, "max_age_s", snapshot.fdb.max_age_s);
  take(fdb, "learned", snapshot.fdb.learned);
  take(fdb, "moved", snapshot.fdb.moved);
  take(fdb, "evicted", snapshot.fdb.evicted);
  take(fdb, "expired", snapshot.fdb.expired);
  for (const Json& port : list(json, "ports")) {
    snapshot.ports.push_back(port_from(port));
  }
  for (const Json& worker : list(json, "workers")) {
    snapshot.workers.push_back(worker_from(worker));
  }
  return snapshot;
}

/// Runs `read(json)` on parsed text; the library's exceptions end here.
template <typename Read>
auto parsed(std::string_view text, Read read) -> Result<decltype(read(Json{}))> {
  try {
    return read(Json::parse(text));
  } catch (const nlohmann::json::exception& error) {
    return fail(ErrorCode::kProtocol,
                fmt::format("the answer is not what a switch says ({}): is the socket that of "
                            "another program or version?",
                            error.what()));
  }
}

}  // namespace

std::string to_json(const SwitchSnapshot& snapshot) {
  Json json{{"version", snapshot.version},
            {"pid", snapshot.pid},
            {"uptime_s", static_cast<double>(snapshot.uptime.count()) / kNanosPerSecond},
            {"idle", snapshot.idle},
            {"pool", pool_json(snapshot.pool)},
            {"fdb", fdb_counters_json(snapshot.fdb)},
            {"ports", ports_json(snapshot.ports)},
            {"workers", workers_json(snapshot.workers)}};
  if (snapshot.take_over_pause) {
    json["take_over_pause_ms"] =
        std::chrono::duration<double, std::milli>(*snapshot.take_over_pause).count();
  }
  return dump(json);
}

std::string ports_to_json(std::span<const PortStats> ports) {
  return dump(Json{{"ports", ports_json(ports)}});
}

std::string workers_to_json(std::span<const WorkerStats> workers) {
  return dump(Json{{"workers", workers_json(workers)}});
}

std::string fdb_to_json(std::span<const FdbRow> rows) {
  Json entries = Json::array();
  for (const FdbRow& row : rows) {
    entries.push_back(
        {{"mac", row.mac}, {"vlan", row.vlan}, {"port", row.port}, {"age_s", row.age_s}});
  }
  return dump(Json{{"entries", std::move(entries)}});
}

std::string drop_reasons_to_json() {
  Json reasons = Json::array();
  for (const DropReasonInfo& reason : kDropReasons) {
    reasons.push_back({{"name", std::string(reason.name)}, {"help", std::string(reason.help)}});
  }
  return dump(Json{{"drop_reasons", std::move(reasons)}});
}

std::string error_to_json(std::string_view sentence) {
  return dump(Json{{"error", std::string(sentence)}});
}

Result<SwitchSnapshot> snapshot_from_json(std::string_view text) {
  return parsed(text, snapshot_from);
}

Result<std::vector<FdbRow>> fdb_from_json(std::string_view text) {
  return parsed(text, [](const Json& json) {
    std::vector<FdbRow> rows;
    for (const Json& entry : list(json, "entries")) {
      FdbRow& row = rows.emplace_back();
      take(entry, "mac", row.mac);
      take(entry, "vlan", row.vlan);
      take(entry, "port", row.port);
      take(entry, "age_s", row.age_s);
    }
    return rows;
  });
}

std::string error_from_json(std::string_view text) {
  const auto sentence =
      parsed(text, [](const Json& json) { return json.at("error").get<std::string>(); });
  return sentence ? *sentence : std::string(text);
}

}  // namespace pollux::control
