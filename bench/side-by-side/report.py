# SPDX-License-Identifier: Apache-2.0
"""From measurements to tables."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from works import Work

NAMES = {"pollux": "Pollux", "testpmd": "testpmd io", "ovs": "OVS-DPDK NORMAL"}


def table(head: list[str], rows: list[list[str]], left: int = 2) -> str:
    """Columns as wide as they need; the first ones to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, ["-" * w for w in widths], *rows]:
        lines.append("  ".join(cell.ljust(w) if i < left else cell.rjust(w)
                               for i, (cell, w) in enumerate(zip(row, widths))).rstrip())
    return "\n".join(lines)


def of(results: Iterable[dict], **keys) -> list[dict]:
    return [r for r in results if all(r.get(k) == v for k, v in keys.items())]


def summarize(results: list[dict], works: list[Work], switches: list[str],
              limits: list[dict]) -> list[dict]:
    """One row for each work and switch: medians, and ratios of medians."""
    rows = []
    for work in works:
        allowed = median(one["pps"][work.size] for one in limits) if work.size else None
        keys = {"work": work.name, "generator": work.generator}
        middles = {kind: median(r["pps"] for r in some) for kind in switches
                   if (some := of(results, switch=kind, **keys))}
        for kind, middle in middles.items():
            some = of(results, switch=kind, **keys)
            rows.append({
                **keys, "switch": kind, "samples": len(some), "mpps": middle / 1e6,
                "lowest_mpps": min(r["pps"] for r in some) / 1e6,
                "highest_mpps": max(r["pps"] for r in some) / 1e6,
                "gbps": median(r["bits_per_second"] for r in some) / 1e9,
                "cycles": some[0]["tsc_hz"] / middle,
                "busy_cycles": median(r["busy_cycles"] for r in some),
                "generator_cycles": median(r["generator_cycles"] for r in some),
                "to_testpmd": ratio(middle, middles.get("testpmd")),
                "to_ovs": ratio(middle, middles.get("ovs")), "to_limit": ratio(middle, allowed)})
    return rows


def ratio(value: float, base: float | None) -> float | None:
    return value / base if base else None


def packets_table(rows: list[dict]) -> str:
    def show(value: float | None) -> str:
        return f"{value:.2f}" if value else "-"
    return table(["frames, rings", "switch", "by", "Mpps", "lowest", "highest", "Gbit/s", "cycles",
                  "busy", "gen", "x testpmd", "x OVS", "of limit"],
                 [[r["work"], NAMES[r["switch"]], r["generator"], f"{r['mpps']:.3f}",
                   f"{r['lowest_mpps']:.3f}", f"{r['highest_mpps']:.3f}", f"{r['gbps']:.1f}",
                   f"{r['cycles']:.0f}", f"{r['busy_cycles']:.0f}",
                   f"{r['generator_cycles']:.0f}", show(r["to_testpmd"]), show(r["to_ovs"]),
                   show(r["to_limit"])] for r in rows])


def limits_line(limits: list[dict]) -> str:
    """What the machine allowed, for people."""
    trips = [one["round_trip_cycles"] for one in limits]
    each = ", ".join(f"{size} B {median(one['pps'][size] for one in limits) / 1e6:.2f}"
                     for size in limits[0]["pps"])
    return (f"Limit: one copy a frame, without virtio, in Mpps: {each}; a cache line to the other "
            f"core and back took {min(trips):.0f} to {max(trips):.0f} cycles")


def guests_table(results: list[dict]) -> tuple[str, list[dict]]:
    """iperf3 between guests: medians of the runs of each switch."""
    rows = []
    for kind in ("pollux", "testpmd"):
        some = of(results, switch=kind)
        if some:
            rows.append({"switch": kind, "samples": len(some),
                         "mbps": median(r["mbps"][0] for r in some),
                         "mbps_back": median(r["mbps"][1] for r in some),
                         "ping_lost": max(r["ping_lost"] for r in some)})
    base = next((r["mbps"] + r["mbps_back"] for r in rows if r["switch"] == "testpmd"), None)
    for row in rows:
        row["to_testpmd"] = ratio(row["mbps"] + row["mbps_back"], base)
    names = {"pollux": "Pollux", "testpmd": "testpmd io, tso=1"}
    text = table(["guests", "switch", "TCP Mbit/s", "back", "pings lost", "x testpmd"],
                 [["2, TCG", names[r["switch"]], f"{r['mbps']:.0f}", f"{r['mbps_back']:.0f}",
                   str(r["ping_lost"]),
                   f"{r['to_testpmd']:.2f}" if r["to_testpmd"] else "-"] for r in rows])
    return text, rows


def negotiated(results: list[dict]) -> str:
    """What each switch and the generator agreed on, once for each different agreement."""
    groups: dict[tuple[str, str], list[str]] = {}
    for r in results:
        text = f"  switch says:    {' | '.join(sorted(set(r['negotiated'].values())))}\n"
        if "says" in r:
            said = r["says"]
            text += (f"  {r['generator']} says:".ljust(18) + f"{' | '.join(said['features'])}; "
                     f"rings {'/'.join(map(str, said['rings']))}; {', '.join(said['routines'])}; "
                     f"1 queue pair a port, {r['in_flight']} packets in flight a direction\n")
        else:
            on = [k for k, v in r["offloads"].items() if v == "on"]
            text += f"  guest says:     on: {', '.join(on) or 'no offload'}\n"
        where = r.get("work", "guests")
        found = groups.setdefault((NAMES[r["switch"]], text), [])
        if where not in found:
            found.append(where)
    return "".join(f"{name}, {', '.join(where)}:\n{text}" for (name, text), where in groups.items())
