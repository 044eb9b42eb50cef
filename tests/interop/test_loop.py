# SPDX-License-Identifier: Apache-2.0
"""bench_loop, whose frames go round and round: through Pollux, and through testpmd in its place.
It fails when a frame is lost, repeated or changed in any byte."""

import json
from pathlib import Path

import pytest

from support.pollux import PolluxSwitch, pollux_bin
from support.switches import TestpmdSwitch


def run_loop(supervisor, switch, *arguments, idle=()):
    sockets = [switch.socket(name) for name in ("a", "b", *idle)]
    program = Path(pollux_bin()).with_name("bench_loop")
    loop = supervisor.start([program, *sockets, "--json", "--prompted", "--warm", "0.1", "--seconds",
                             "0.4", *arguments], name="loop")
    switch.wait_attached("a", "b")
    loop.send("")
    told = json.loads(loop.wait_for(r"^\{.*\}$", 60)[0])
    loop.send("")
    assert loop.wait(20) == 0, told
    assert told["whole"] == 2 * told["in_flight"] and min(told["pps_each"]) > 0
    return told


@pytest.mark.parametrize("arguments", [
    "--sizes 64", "--sizes 64 --packed", "--sizes 64:7,570:4,1518:1 --touch",
    "--sizes 9000 --packed", "--sizes 65000", "--sizes 65535:1,1448:1 --packed"])
@pytest.mark.parametrize("make", [PolluxSwitch, TestpmdSwitch])
def test_every_frame_is_whole(supervisor, pollux_path, need_testpmd, make, arguments):
    large = "65" in arguments
    switch = make(supervisor, ["a", "b"], tso=large,
                  frame_size=9018 if "9000" in arguments else 1518)
    told = run_loop(supervisor, switch, *arguments.split())
    assert ("GUEST_TSO4" in told["features"]) == large
    assert ("RING_PACKED" in told["features"]) == ("--packed" in arguments)
    switch.stop()


def test_many_addresses_and_idle_ports(supervisor, pollux_path):
    """Frames of 2000 addresses each way find their port; idle ports see only the first ones."""
    switch = PolluxSwitch(supervisor, ["a", "b", "c", "d"])
    told = run_loop(supervisor, switch, "--macs", "2000", idle=("c", "d"))
    counters = switch.counters()
    assert counters["a"].rx_packets >= 2000
    flooded = counters["c"].tx_packets + counters["c"].dropped
    assert flooded <= 2 * 2000 + 2 * told["in_flight"]
    switch.stop()
