# SPDX-License-Identifier: Apache-2.0
"""bench_loop, whose frames go round and round, or are new ones at a rate: through Pollux, and through
testpmd in its place. It fails when a frame is lost, repeated or changed in any byte."""

import json
from pathlib import Path

import pytest

from support.pollux import PolluxSwitch, pollux_bin
from support.switches import TestpmdSwitch


PROGRAM = Path(pollux_bin()).with_name("bench_loop")


def run_bench_loop(supervisor, switch, *arguments, idle=(), warm=0.1, status=0,
                   when_attached=lambda: None):
    """What it tells; it must end with that status."""
    sockets = [switch.socket(name) for name in ("a", "b", *idle)]
    loop = supervisor.start([PROGRAM, *sockets, "--json", "--prompted", "--warm", str(warm),
                             "--seconds", "0.4", *arguments], name="loop")
    switch.wait_attached("a", "b")
    when_attached()
    loop.send("")
    told = json.loads(loop.wait_for(r"^\{.*\}$", 60)[0])
    loop.send("")
    assert loop.wait(20) == status, told
    return told


def run_loop(*arguments, **more):
    told = run_bench_loop(*arguments, **more)
    assert told["whole"] == 2 * told["in_flight"] and min(told["pps_each"]) > 0
    return told


@pytest.mark.parametrize("arguments", [
    "--sizes 64", "--sizes 64 --packed", "--sizes 64:7,570:4,1518:1 --touch",
    "--sizes 9000 --packed", "--sizes 65000", "--sizes 65535:1,1448:1 --packed",
    "--sizes 64:7,1518:1 --flows 100000", "--sizes 65000 --flows 3 --packed"])
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


@pytest.mark.parametrize("arguments", [
    "--sizes 64", "--sizes 64:7,570:4,1518:1 --packed", "--sizes 1518 --ring 64",
    "--sizes 9000 --macs 50 --flows 70000"])
@pytest.mark.parametrize("make", [PolluxSwitch, TestpmdSwitch])
def test_every_frame_at_a_rate_is_timed(supervisor, pollux_path, need_testpmd, make, arguments):
    """At a low rate each frame arrives once and in order, and its time is counted."""
    switch = make(supervisor, ["a", "b"], frame_size=9018 if "9000" in arguments else 1518)
    told = run_bench_loop(supervisor, switch, "--rate", "20000", *arguments.split(), warm=0)
    assert told["received"] == told["sent"] > 0
    assert (told["lost"], told["late"], told["repeated"], told["corrupt"]) == (0, 0, 0, 0)
    latency = told["latency_ns"]
    assert latency["count"] == told["window_sent"] == told["sent"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["p99.9"]
    assert latency["p99.9"] <= latency["max"]
    assert ("RING_PACKED" in told["features"]) == ("--packed" in arguments)
    switch.stop()


def test_what_was_warming_is_not_timed(supervisor, pollux_path):
    switch = PolluxSwitch(supervisor, ["a", "b"])
    told = run_bench_loop(supervisor, switch, "--rate", "20000", warm=0.3)
    assert told["received"] == told["sent"]
    assert told["latency_ns"]["count"] == told["window_sent"] < told["sent"]
    counters = switch.counters()
    assert sum(c.rx_packets for c in counters.values()) == told["sent"]
    assert sum(c.tx_packets for c in counters.values()) == told["sent"]
    switch.stop()


def test_a_changed_frame_is_corrupt(supervisor, pollux_path, need_testpmd):
    """testpmd that swaps the MAC addresses changes no byte else."""
    switch = TestpmdSwitch(supervisor, ["a", "b"], forward="macswap")
    told = run_bench_loop(supervisor, switch, "--rate", "2000", warm=0, status=1)
    assert told["corrupt"] == told["lost"] == told["sent"] > 0
    assert told["received"] == told["latency_ns"]["count"] == 0
    switch.stop()


def test_a_switch_that_takes_nothing_is_told_of(supervisor, pollux_path):
    """Frames that nobody forwards are lost, and the rest waits for room: neither is passed over."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    told = run_bench_loop(supervisor, switch, "--rate", "1000000", warm=0, status=1,
                          when_attached=lambda: switch.delete_port("b"))
    assert told["lost"] == told["sent"] == 2 * told["in_flight"]
    assert told["received"] == told["latency_ns"]["count"] == 0
    switch.stop()
