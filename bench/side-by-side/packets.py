# SPDX-License-Identifier: Apache-2.0
"""One measurement: a switch with two vhost-user ports and the generator between them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from support.pollux import PolluxSwitch
from support.process import HarnessError, Supervisor
from support.switches import OvsSwitch, Switch, TestpmdSwitch, feature_names
from support.testpmd import Testpmd, virtio_user

_MACS = ("02:00:00:00:00:a0", "02:00:00:00:00:b0")
_IN_FLIGHT = 256  # packets a direction
_RING = 1024


def start_switch(kind: str, supervisor: Supervisor, size: int, cpu: int,
                 pollux_arguments: Sequence[str]) -> Switch:
    if kind == "pollux":
        return PolluxSwitch(supervisor, ["a", "b"], cpus=[cpu], arguments=pollux_arguments)
    if kind == "testpmd":
        return TestpmdSwitch(supervisor, ["a", "b"], frame_size=size, huge=True, cpu=cpu)
    return OvsSwitch(supervisor, ["a", "b"], frame_size=size, cpu=cpu)


def measure(kind: str, size: int, rings: str, seconds: float, cpus: tuple[int, int],
            pollux_arguments: Sequence[str] = ()) -> dict:
    """The rate in packets a second, both directions together, and how it came about. `rings`: what
    the generator asks for, "split" or "packed in-order"; its receive buffers are mergeable."""
    packed = rings != "split"
    with Supervisor() as supervisor:
        switch = start_switch(kind, supervisor, size, cpus[0], pollux_arguments)
        generator = Testpmd(
            supervisor, [virtio_user(switch.socket(name), mac=mac, queue_size=_RING,
                                     packed=packed, in_order=packed)
                         for name, mac in zip("ab", _MACS)],
            cpu=cpus[1], huge=True, frame_size=size, descriptors=_RING, name="generator",
            options=[f"--eth-peer=0,{_MACS[1]}", f"--eth-peer=1,{_MACS[0]}"])
        try:
            switch.wait_attached()
            generator.start_loop(_IN_FLIGHT, size)
            time.sleep(1)  # caches, clocks, the first flood
            generator.stats()
            time.sleep(seconds)
            stats = generator.stats()
            rates = [s.rx_pps for s in stats]
            if min(rates) < 0.5 * max(rates):
                raise HarnessError(f"the two directions differ: {rates}, so packets were lost")
            gen_cycles, hertz = generator.cycles()
            result = {
                "switch": kind, "size": size, "rings": rings, "pps": sum(rates),
                "generator_cycles": gen_cycles, "tsc_hz": hertz,
                "generator": {
                    "features": [feature_names(bits) for bits in generator.negotiated()],
                    "rings": generator.ring_sizes(), "routines": sorted(generator.routines())},
                "negotiated": switch.negotiated(),
                "in_flight": _IN_FLIGHT,
            }
            if kind == "pollux":
                result["stats"] = switch.stats()
            generator.stop()
            generator.quit()
            switch.stop()
            return result
        except HarnessError as error:
            raise HarnessError(f"{error}\n{supervisor.report()}") from None
