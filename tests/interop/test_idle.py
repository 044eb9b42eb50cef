# SPDX-License-Identifier: Apache-2.0
"""Idle workers sleep until a peer kicks, and poll again afterwards."""

import pytest

from support import frames
from support.frontend import EVENT_IDX, INDIRECT_DESC, MRG_RXBUF, VERSION_1, Frontend
from support.pollux import PolluxSwitch, check_conservation
from support.process import wait_until

MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
PLAIN = (VERSION_1, MRG_RXBUF)

pytestmark = pytest.mark.usefixtures("pollux_path")


def worker(switch):
    return switch.stats()["workers"][0]


def sleep_counts(switch, sleeps=5):
    """Empty polls while the only worker falls asleep so many times more."""
    before = worker(switch)
    after = wait_until(lambda: (now := worker(switch))["sleeps"] >= before["sleeps"] + sleeps
                       and now, 20, "the worker sleeps")
    return after["empty_turns"] - before["empty_turns"]


@pytest.mark.parametrize("features", [PLAIN, PLAIN + (EVENT_IDX, INDIRECT_DESC)],
                         ids=["flags", "event-idx"])
def test_every_frame_wakes(supervisor, features):
    """Frames come one by one to a switch that sleeps each time: each kick is asked for, and found."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    with Frontend(switch.socket("a"), features=features) as a, \
            Frontend(switch.socket("b"), features=features) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        for number in range(20):
            asleep = worker(switch)["sleeps"]
            wait_until(lambda: worker(switch)["sleeps"] > asleep, 20, "the worker sleeps")
            sender, receiver = (a, b) if number % 2 == 0 else (b, a)
            macs = (MAC_B, MAC_A) if number % 2 == 0 else (MAC_A, MAC_B)
            frame = frames.ethernet(*macs, size=60 + number)
            sender.send(frame)
            assert frame in receiver.receive(1, timeout=20)
    check_conservation(switch.finish())


def test_sleep_is_deep_and_can_be_forbidden(supervisor):
    """An idle worker hardly polls. A queue in polling mode keeps it awake; both change at run time."""
    switch = PolluxSwitch(supervisor, ["a"])
    with Frontend(switch.socket("a")) as peer:
        peer.start()
        switch.wait_attached("a")
        sleep_counts(switch)  # whatever starting has left to do
        # One look at its queue and the patience after a wake-up by control, a sleep each.
        assert sleep_counts(switch, 10) < 10 * 10_000
        switch.set_mode("a/rx0", "poll")
        queues = switch.port_infos()["a"]["queues"]
        assert [q["mode"] for q in queues if q["name"] == "rx0"] == ["poll"]
        polled = worker(switch)
        wait_until(lambda: worker(switch)["empty_turns"] > polled["empty_turns"] + 1_000_000, 30,
                   "the worker polls")
        assert worker(switch)["sleeps"] <= polled["sleeps"] + 1
        switch.set_mode("a", "adaptive")
        sleep_counts(switch)
    check_conservation(switch.finish())
