// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pollux/base/result.hpp"
#include "pollux/control/snapshot.hpp"

/// What a switch tells about itself, as JSON and as tables; both from the same data. The shapes
/// of the JSON are described in docs/control-api.md.
namespace pollux::control {

// JSON, as one line of text.
[[nodiscard]] std::string to_json(const SwitchSnapshot& snapshot);
[[nodiscard]] std::string ports_to_json(std::span<const PortStats> ports);
[[nodiscard]] std::string workers_to_json(std::span<const WorkerStats> workers);
[[nodiscard]] std::string fdb_to_json(std::span<const FdbRow> rows);
/// The table of reasons with their sentences.
[[nodiscard]] std::string drop_reasons_to_json();
/// {"error": SENTENCE}
[[nodiscard]] std::string error_to_json(std::string_view sentence);

// Back again, for the command line, which draws its tables from a switch's answers. What is
// missing keeps its default, so that versions may differ. Errors: kProtocol.
[[nodiscard]] Result<SwitchSnapshot> snapshot_from_json(std::string_view text);
[[nodiscard]] Result<std::vector<FdbRow>> fdb_from_json(std::string_view text);
/// The sentence of an error_to_json text; `text` itself when it is something else.
[[nodiscard]] std::string error_from_json(std::string_view text);

// Tables, with a line feed at the end.
/// One line a port: peer, link, packets, bytes and drops of each direction.
[[nodiscard]] std::string ports_table(std::span<const PortStats> ports);
/// One block a port: kind, peer, features, rings, memory.
[[nodiscard]] std::string port_details(std::span<const PortStats> ports);
/// One line a queue.
[[nodiscard]] std::string queues_table(std::span<const PortStats> ports);
/// One line for each reason that has counted, by port and direction, with its sentence.
[[nodiscard]] std::string drops_table(std::span<const PortStats> ports);
[[nodiscard]] std::string workers_table(std::span<const WorkerStats> workers);
[[nodiscard]] std::string fdb_table(std::span<const FdbRow> rows);
/// Rates of each port between two snapshots of one switch.
[[nodiscard]] std::string rates_table(const SwitchSnapshot& before, const SwitchSnapshot& now);
/// A few lines on memory, pool, addresses.
[[nodiscard]] std::string summary(const SwitchSnapshot& snapshot);
/// All of it: what a switch prints when it ends.
[[nodiscard]] std::string full_report(const SwitchSnapshot& snapshot);

}  // namespace pollux::control
