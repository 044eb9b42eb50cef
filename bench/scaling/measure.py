# SPDX-License-Identifier: Apache-2.0
"""Single measurements: one pair of ports of many, and two pairs on one worker or two."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from packets import helper
from support.pollux import PolluxSwitch
from support.process import Child, HarnessError, Supervisor, wait_until

_RING = 256
# Room for all addresses of both sides.
_SWITCH = ["--fdb-capacity", "524288"]


def start_loop(supervisor: Supervisor, switch: PolluxSwitch, ports: Sequence[str], cpu: int,
               seconds: float, *arguments: str) -> Child:
    """bench_loop between the first two of these ports, waiting for a line to begin."""
    return supervisor.start(
        [helper("bench_loop"), *(switch.socket(name) for name in ports), "--cpu", str(cpu),
         "--json", "--prompted", "--ring", str(_RING), "--seconds", str(seconds), *arguments],
        name=f"loop-{ports[0]}")


def end_loop(loop: Child, told: dict) -> None:
    loop.send("")
    if loop.wait(30) != 0:
        raise HarnessError(f"frames were lost: {told}")


def pair(ports: int, macs: int, flows: int, seconds: float, cpus: Sequence[int]) -> dict:
    """One worker, traffic on two of so many ports: the rate, what a packet costs and an empty poll."""
    names = [f"p{n}" for n in range(ports)]
    with Supervisor() as supervisor:
        switch = PolluxSwitch(supervisor, names, cpus=[cpus[0]],
                              arguments=[*_SWITCH, "--idle", "poll"])
        loop = start_loop(supervisor, switch, names, cpus[1], seconds, "--macs", str(macs),
                          "--flows", str(flows))
        switch.wait_attached(timeout=60)
        before = switch.stats()["workers"][0]
        rest = _poll_cost(switch)
        loop.send("")
        told = json.loads(loop.wait_for(r"^\{.*\}$", seconds + 30)[0])
        after = switch.stats()["workers"][0]
        end_loop(loop, told)
        switch.stop()
        return {"ports": ports, "macs": macs, "flows": flows, "pps": told["pps"], "poll_ns": rest,
                "busy_cycles": (after["busy_cycles"] - before["busy_cycles"]) /
                (after["packets"] - before["packets"])}


def _poll_cost(switch: PolluxSwitch) -> float:
    """Nanoseconds that a poll of a queue without traffic takes of its worker."""
    def read() -> tuple[int, float]:
        return switch.stats()["workers"][0]["empty_turns"], time.monotonic()
    polls, began = read()
    time.sleep(0.5)
    later, ended = read()
    return (ended - began) * 1e9 / max(1, later - polls)


def two_pairs(workers: Sequence[int], generators: Sequence[int], seconds: float,
              idle: str = "poll") -> dict:
    """Two pairs of ports with a generator each, on workers on these CPUs; the rates of both pairs.

    Queues are dealt out to workers in turn as ports are added: of two workers each has a pair of
    its own. Where each was is in "workers_of".
    """
    pairs = [("p0", "p2"), ("p1", "p3")]
    with Supervisor() as supervisor:
        switch = PolluxSwitch(supervisor, ["p0", "p1", "p2", "p3"], cpus=workers,
                              arguments=[*_SWITCH, "--idle", idle])
        loops = [start_loop(supervisor, switch, names, cpu, seconds, "--shared", "--first-mac",
                            str(n))
                 for n, (names, cpu) in enumerate(zip(pairs, generators))]
        wait_until(lambda: len(switch.ask("fdb", "show")["entries"]) == 4, 30,
                   "the switch knows where the addresses of both pairs are")
        for loop in loops:
            loop.send("")
        told = [json.loads(loop.wait_for(r"^\{.*\}$", seconds + 60)[0]) for loop in loops]
        places = _workers_of(switch)
        for loop, one in zip(loops, told):
            end_loop(loop, one)
        switch.stop()
        return {"workers": len(workers), "pps": sum(one["pps"] for one in told),
                "pps_each": [one["pps"] for one in told], "whole": [one["whole"] for one in told],
                "in_flight": [one["in_flight"] for one in told],
                "workers_of": [[places[name] for name in names] for names in pairs]}


def _workers_of(switch: PolluxSwitch) -> dict[str, int]:
    """Which worker polls each port."""
    return {port["name"]: next(queue["worker"] for queue in port["queues"]
                               if queue["name"] == "rx0")
            for port in switch.stats()["ports"]}
