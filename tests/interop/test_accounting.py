# SPDX-License-Identifier: Apache-2.0
"""Generator, switch, `pollux stats` and the switch's last report agree to the packet."""

import time

import pytest
from conftest import MAC_B, Loop, assert_accounts_agree

from support import frames
from support.frontend import Frontend
from support.pollux import PolluxSwitch, check_conservation, counters_of
from support.process import Supervisor


def run_for(supervisor, seconds, size):
    switch = PolluxSwitch(supervisor, ["a", "b"])
    before = switch.counters()
    loop = Loop(supervisor, switch, frame_size=size)
    loop.start()
    end = time.monotonic() + seconds
    asked = []
    while time.monotonic() < end:  # readers while it runs must not disturb, nor go backwards
        asked.append(switch.counters())
        time.sleep(min(1, seconds / 5))
    seen = loop.stop()
    after = switch.counters()
    assert_accounts_agree(before, after, seen)
    for earlier, later in zip(asked, asked[1:]):
        assert later["a"].rx_packets >= earlier["a"].rx_packets
    assert seen[0].rx_packets > 0
    loop.testpmd.quit()
    report = switch.finish()
    check_conservation(report)
    assert counters_of(report) == after
    print(f"{sum(s.tx_packets for s in seen)} packets, {size} B, in {seconds} s: all accounted for")


@pytest.mark.parametrize("size", [64, 1518])
def test_some_seconds(pollux_path, need_testpmd, supervisor, size):
    run_for(supervisor, 4, size)


@pytest.mark.slow
def test_one_minute(pollux_path, need_testpmd, supervisor):
    run_for(supervisor, 60, 64)


def test_overload_is_counted(pollux_path, need_testpmd, supervisor):
    """A generator that does not wait for anybody: what the receiver gets and what the switch says
    that it dropped make up what was sent."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    loop = Loop(supervisor, switch)
    switch.wait_attached()
    testpmd = loop.testpmd
    # The receiver's address is known before the flood, so that nothing goes anywhere else.
    testpmd.command("set fwd txonly")
    testpmd.command("set eth-peer 0 " + MAC_B)
    testpmd.command("start")
    time.sleep(2)  # how long does not matter: whatever was sent is accounted for
    stats, now = loop.stop(), switch.counters()
    for name, seen in zip("ab", stats):
        assert now[name].rx_packets == seen.tx_packets
        assert now[name].tx_packets == seen.rx_packets
    dropped = sum(c.dropped for c in now.values())
    assert sum(s.tx_packets for s in stats) == sum(s.rx_packets for s in stats) + dropped
    testpmd.quit()
    check_conservation(switch.finish())


def test_stopping_under_traffic(pollux_path, need_testpmd, supervisor):
    """What was taken from a ring when the signal comes ends in a ring or under a reason."""
    for _ in range(3):
        with Supervisor() as once:
            switch = PolluxSwitch(once, ["a", "b"])
            loop = Loop(once, switch)
            loop.start()
            loop.wait_packets(10000)
            check_conservation(switch.finish())


def test_stuck_receiver_costs_its_own_packets_only(pollux_path, need_testpmd, supervisor):
    """A peer that posts a few buffers and never again takes anything does not slow down or lose
    packets of others."""
    switch = PolluxSwitch(supervisor, ["a", "b", "stuck", "talker"])
    with Frontend(switch.socket("stuck"), queue_size=16) as stuck, \
            Frontend(switch.socket("talker")) as talker:
        stuck.start()
        talker.start()
        switch.wait_attached("stuck", "talker")
        stuck.send(frames.ethernet("02:00:00:00:00:04", "02:00:00:00:00:03", size=64))
        talker.receive(1)
        loop = Loop(supervisor, switch)
        loop.start()
        loop.wait_packets(1000)
        before = switch.counters()
        burst = [frames.ethernet("02:00:00:00:00:03", "02:00:00:00:00:04", size=64 + n)
                 for n in range(100)]
        for _ in range(5):
            talker.send_batch(burst)
        loop.wait_packets(10000)
        seen = loop.stop()
        after = switch.counters()
        # The loop's first packets were flooded, so it is compared with itself.
        assert sum(s.tx_packets for s in seen) == sum(s.rx_packets for s in seen)
        assert after["talker"].rx_packets - before["talker"].rx_packets == 500
        lost = after["stuck"].dropped - before["stuck"].dropped
        carried = after["stuck"].tx_packets - before["stuck"].tx_packets
        assert lost + carried == 500
        assert after["stuck"].drops.get("tx receiver_ring_full", 0) > 0
        assert not {k for k in after["a"].drops if after["a"].drops[k] != before["a"].drops.get(k)}
    check_conservation(switch.finish())
