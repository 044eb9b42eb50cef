# SPDX-License-Identifier: Apache-2.0
"""From measurements to tables."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

NAMES = {"pollux": "Pollux", "testpmd": "testpmd io", "ovs": "OVS-DPDK NORMAL"}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, ["-" * w for w in widths], *rows]:
        lines.append("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w)
                               for i, (cell, w) in enumerate(zip(row, widths))).rstrip())
    return "\n".join(lines)


def of(results: Iterable[dict], **keys) -> list[dict]:
    return [r for r in results if all(r.get(k) == v for k, v in keys.items())]


def summarize(results: list[dict], shapes: list[tuple[int, str]], switches: list[str]) -> list[dict]:
    """One row a shape (size and kind of rings) and switch: medians, and ratios of medians."""
    rows = []
    for size, rings in shapes:
        rates = {kind: [r["pps"] for r in of(results, switch=kind, size=size, rings=rings)]
                 for kind in switches}
        middles = {kind: median(found) for kind, found in rates.items() if found}
        for kind in switches:
            if not rates[kind]:
                continue
            some = of(results, switch=kind, size=size, rings=rings)
            middle = middles[kind]
            rows.append({
                "size": size, "rings": rings, "switch": kind, "samples": len(some), "mpps": middle / 1e6,
                "lowest_mpps": min(rates[kind]) / 1e6, "highest_mpps": max(rates[kind]) / 1e6,
                "gbps": middle * size * 8 / 1e9,
                "cycles": some[0]["tsc_hz"] / middle,
                "generator_cycles": median(r["generator_cycles"] for r in some),
                "to_testpmd": ratio(middle, middles.get("testpmd")),
                "to_ovs": ratio(middle, middles.get("ovs"))})
    return rows


def ratio(value: float, base: float | None) -> float | None:
    return value / base if base else None


def packets_table(rows: list[dict]) -> str:
    def show(value: float | None) -> str:
        return f"{value:.2f}" if value else "-"
    return table(["bytes, rings", "switch", "Mpps", "lowest", "highest", "Gbit/s", "cycles", "gen",
                  "x testpmd", "x OVS"],
                 [[f"{r['size']} {r['rings']}", NAMES[r["switch"]], f"{r['mpps']:.2f}",
                   f"{r['lowest_mpps']:.2f}", f"{r['highest_mpps']:.2f}", f"{r['gbps']:.1f}",
                   f"{r['cycles']:.0f}", f"{r['generator_cycles']:.0f}",
                   show(r["to_testpmd"]), show(r["to_ovs"])] for r in rows])


def guests_table(results: list[dict]) -> tuple[str, list[dict]]:
    """iperf3 between guests: medians of the runs of each switch."""
    rows = []
    for kind in ("pollux", "testpmd"):
        some = of(results, switch=kind)
        if some:
            rows.append({"switch": kind, "samples": len(some),
                         "mbps": median(r["mbps"][0] for r in some),
                         "mbps_back": median(r["mbps"][1] for r in some),
                         "ping_lost_percent": max(r["ping_lost_percent"] for r in some)})
    base = next((r["mbps"] + r["mbps_back"] for r in rows if r["switch"] == "testpmd"), None)
    for row in rows:
        row["to_testpmd"] = ratio(row["mbps"] + row["mbps_back"], base)
    names = {"pollux": "Pollux", "testpmd": "testpmd io, tso=1"}
    text = table(["guests", "switch", "TCP Mbit/s", "back", "ping lost %", "x testpmd"],
                 [["2, TCG", names[r["switch"]], f"{r['mbps']:.0f}", f"{r['mbps_back']:.0f}",
                   f"{r['ping_lost_percent']:g}",
                   f"{r['to_testpmd']:.2f}" if r["to_testpmd"] else "-"] for r in rows])
    return text, rows


def negotiated(results: list[dict]) -> str:
    """What each switch and the generator agreed on, once for each different agreement."""
    groups: dict[str, list[str]] = {}
    for r in results:
        both = sorted(set(r["negotiated"].values()))
        text = f"  switch says:    {' | '.join(both)}\n"
        if "generator" in r:
            g = r["generator"]
            text += (f"  generator says: {' | '.join(sorted(set(g['features'])))}; rings "
                     f"{'/'.join(map(str, g['rings']))}; {', '.join(g['routines'])}; "
                     f"1 queue pair a port, {r['in_flight']} packets in flight a direction\n")
        else:
            on = [k for k, v in r["offloads"].items() if v == "on"]
            text += f"  guest says:     on: {', '.join(on) or 'no offload'}\n"
        where = f"{r['size']} B {r['rings']}" if "size" in r else "guests"
        key = f"{NAMES[r['switch']]}|{text}"
        if where not in groups.setdefault(key, []):
            groups[key].append(where)
    lines = []
    for key, wheres in groups.items():
        name, text = key.split("|", 1)
        lines.append(f"{name}, {', '.join(wheres)}:\n{text}")
    return "".join(lines)
