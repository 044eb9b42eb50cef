# SPDX-License-Identifier: Apache-2.0
"""One measurement: a switch with two vhost-user ports and a generator between them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from support.pollux import PolluxSwitch, pollux_bin
from support.process import HarnessError, Supervisor, call
from support.switches import OvsSwitch, Switch, TestpmdSwitch, feature_names
from support.testpmd import Testpmd, virtio_user
from works import Work

_MACS = ("02:00:00:00:00:a0", "02:00:00:00:00:b0")
_IN_FLIGHT = 256  # packets a direction
_RING = 1024


def helper(name: str) -> str:
    """A program of the bench, which is built beside the one under test."""
    path = Path(pollux_bin()).with_name(name)
    if not os.access(path, os.X_OK):
        raise HarnessError(f"{path} is not there: cmake --build --preset release -t {name}")
    return str(path)


def limits(sizes: Sequence[int], cpus: tuple[int, int]) -> dict:
    """What the machine allows at the moment, by bench_limit: the way of a cache line in cycles, and
    for each size the packets a second of the best way to copy."""
    told = json.loads(call([helper("bench_limit"), "--json", "--cpus", ",".join(map(str, cpus)),
                            "--sizes", ",".join(map(str, sizes))], timeout=120))
    return {"round_trip_cycles": told["round_trip_cycles"],
            "pps": {row["size"]: max(row["mpps"].values()) * 1e6 for row in told["sizes"]}}


def start_switch(kind: str, supervisor: Supervisor, work: Work, cpu: int,
                 pollux_arguments: Sequence[str]) -> Switch:
    if kind == "pollux":
        return PolluxSwitch(supervisor, ["a", "b"], cpus=[cpu], arguments=pollux_arguments)
    frame = min(work.largest, 9018) if not work.large else 1518  # TSO: frames in pieces
    if kind == "testpmd":
        return TestpmdSwitch(supervisor, ["a", "b"], frame_size=frame, huge=True, cpu=cpu,
                             tso=work.large)
    return OvsSwitch(supervisor, ["a", "b"], frame_size=frame, cpu=cpu)


def by_testpmd(supervisor: Supervisor, switch: Switch, work: Work, seconds: float,
               cpu: int) -> dict:
    generator = Testpmd(
        supervisor, [virtio_user(switch.socket(name), mac=mac, queue_size=_RING,
                                 packed=work.packed, in_order=work.packed)
                     for name, mac in zip("ab", _MACS)],
        cpu=cpu, huge=True, frame_size=work.largest, descriptors=_RING, name="generator",
        options=[f"--eth-peer=0,{_MACS[1]}", f"--eth-peer=1,{_MACS[0]}"])
    switch.wait_attached()
    generator.start_loop(_IN_FLIGHT, work.largest, forward="csum" if work.touch else "io")
    time.sleep(1)  # caches, clocks, the first flood
    generator.stats()
    time.sleep(seconds)
    rates = [s.rx_pps for s in generator.stats()]
    cycles, hertz = generator.cycles()
    found = {"rates": rates, "bits_per_second": sum(rates) * work.largest * 8,
             "generator_cycles": cycles, "tsc_hz": hertz, "in_flight": _IN_FLIGHT,
             "says": {"features": sorted({feature_names(bits) for bits in generator.negotiated()}),
                      "rings": generator.ring_sizes(), "routines": sorted(generator.routines())},
             "negotiated": switch.negotiated()}
    found["busy_cycles"] = switch.busy_cycles()
    generator.stop()
    generator.quit()
    return found


def by_loop(supervisor: Supervisor, switch: Switch, work: Work, seconds: float, cpu: int) -> dict:
    told = run_loop(supervisor, switch, work, seconds, cpu)
    return {"rates": told["pps_each"], "bits_per_second": told["bits_per_second"],
            "generator_cycles": told["generator_cycles"],
            **{key: told[key] for key in ("tsc_hz", "in_flight", "says", "negotiated", "busy_cycles")}}


def run_loop(supervisor: Supervisor, switch: Switch, work: Work, seconds: float, cpu: int,
             *arguments: str) -> dict:
    """What bench_loop tells, what it says of itself ("says"), and the switch of both. A frame that is
    lost or not as it was is an error."""
    argv = [helper("bench_loop"), *(switch.socket(name) for name in "ab"), "--cpu", str(cpu), "--json",
            "--prompted", "--sizes", work.sizes, "--seconds", str(seconds), "--ring", str(_RING),
            "--in-flight", str(_IN_FLIGHT), *arguments]
    generator = supervisor.start(argv + ["--packed"] * work.packed + ["--touch"] * work.touch,
                                 name="generator")
    switch.wait_attached()
    negotiated = switch.negotiated()  # and OVS forwards nothing before it tells this
    generator.send("")
    told = json.loads(generator.wait_for(r"^\{.*\}$", seconds + 30)[0])
    if told["lost"] or told["corrupt"]:
        raise HarnessError(f"{told['lost']} frames lost, {told['corrupt']} corrupt")
    busy = switch.busy_cycles()
    generator.send("")
    generator.wait(10)
    return {**told, "negotiated": negotiated, "busy_cycles": busy,
            "says": {"features": [" ".join(told["features"])], "rings": [told["ring_size"]],
                     "routines": [f"buffers of {told['buffer_size']} bytes"]}}


def measure(kind: str, work: Work, seconds: float, cpus: tuple[int, int],
            pollux_arguments: Sequence[str] = ()) -> dict:
    """The rate in packets a second, both directions together, and how it came about."""
    with Supervisor() as supervisor:
        switch = start_switch(kind, supervisor, work, cpus[0], pollux_arguments)
        try:
            drive = by_testpmd if work.generator == "testpmd" else by_loop
            found = drive(supervisor, switch, work, seconds, cpus[1])
            rates = found.pop("rates")
            if min(rates) < 0.5 * max(rates):
                raise HarnessError(f"the two directions differ: {rates}, so packets were lost")
            result = {"switch": kind, "work": work.name, "generator": work.generator,
                      "pps": sum(rates), **found}
            if kind == "pollux":
                result["stats"] = switch.stats()
            switch.stop()
            return result
        except HarnessError as error:
            raise HarnessError(f"{error}\n{supervisor.report()}") from None
