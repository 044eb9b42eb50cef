# SPDX-License-Identifier: Apache-2.0
"""Where a bench runs, whether it can, and how far it is."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from support.pollux import pollux, pollux_bin
from support.process import HarnessError, call, cpus
from support.system import is_root, missing_program

SWITCHES = ["pollux", "testpmd", "ovs"]
HUGE_PAGES = 1280  # a switch, the generator, and some for Pollux


def missing(programs: Iterable[str]) -> str | None:
    """Why not all of these (SWITCHES, generators) can be run here, if so."""
    programs = set(programs)
    peers = programs & {"testpmd", "ovs"}
    if peers and not is_root():
        return "needs root: the peers want hugepages"
    if len(cpus()) < 2:
        return "needs two CPUs: one for the switch, one for the generator"
    if peers and (reason := missing_program("dpdk-testpmd")):
        return reason
    if "ovs" in peers and (reason := missing_program("ovs-vsctl")):
        return f"{reason} (or --switches without ovs)"
    if "pollux" in programs:
        try:
            pollux_bin()
        except HarnessError as error:
            return str(error)
    return None


def machine() -> dict:
    """What the numbers belong to."""
    model = next((line.split(":")[1].strip() for line in
                  Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    versions = call(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", "dpdk",
                     "openvswitch-switch-dpdk", "qemu-system-x86"], check=False)
    found = {"cpu": model, "kernel": platform.release(), "packages": versions.split("\n")[:-1],
             "load": os.getloadavg()[0]}
    try:
        found["packages"].append(pollux("version").stdout.strip())
    except HarnessError:
        pass
    return found


def machine_line(about: dict, hertz: float | None) -> str:
    clock = f", clock {hertz / 1e9:.2f} GHz" if hertz else ""
    return f"{about['cpu']}{clock}, Linux {about['kernel']}; {'; '.join(about['packages'])}"


def warn_of_load(about: dict) -> None:
    if about["load"] > 1:
        print(f"bench: the load is {about['load']:.1f}: other programs will show in the figures",
              file=sys.stderr)


class Progress:
    """One line for each step that says where we are."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began = total, 0, time.monotonic()

    def step(self, text: str) -> None:
        self.done += 1
        passed = time.monotonic() - self.began
        print(f"[{self.done}/{self.total}, {passed:.0f} s] {text}", file=sys.stderr, flush=True)
