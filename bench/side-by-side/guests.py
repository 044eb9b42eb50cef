# SPDX-License-Identifier: Apache-2.0
"""One measurement: iperf3 between two Linux guests through a switch."""

from __future__ import annotations

from support.guest import Guest, Nic
from support.pollux import PolluxSwitch
from support.process import HarnessError, Supervisor
from support.switches import TestpmdSwitch


def measure(kind: str, seconds: float, cpu: int) -> dict:
    """TCP in Mbit/s, from b to a and back, and what the guests use."""
    with Supervisor() as supervisor:
        if kind == "pollux":
            switch = PolluxSwitch(supervisor, ["a", "b"], cpus=[cpu])
        else:
            switch = TestpmdSwitch(supervisor, ["a", "b"], tso=True, cpu=cpu)
        guests = [Guest(supervisor, name, [Nic(switch.socket(name), f"02:00:00:00:77:0{n}")])
                  for n, name in enumerate("ab", 1)]
        try:
            for number, guest in enumerate(guests, 1):
                guest.wait_ready()
                guest.configure(number)
            a, b = guests
            b.wait_reachable("10.77.0.1")
            a.start_iperf_server()
            b.iperf("10.77.0.1", 1)
            mbps = [b.iperf("10.77.0.1", seconds, way)["mbps"] for way in ("", "-R")]
            lost = b.ping("10.77.0.1", 50)
            result = {"switch": kind, "mbps": mbps, "ping_lost": lost,
                      "offloads": {k: v for k, v in b.offloads().items()
                                   if k in ("tx-checksumming", "tcp-segmentation-offload",
                                            "rx-checksumming")},
                      "negotiated": switch.negotiated()}
            for guest in guests:
                guest.quit()
            switch.stop()
            return result
        except HarnessError as error:
            raise HarnessError(f"{error}\n{supervisor.report()}") from None
