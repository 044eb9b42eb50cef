# SPDX-License-Identifier: Apache-2.0
"""Guest memory in many small pieces: slots one by one, buffers and chains across them, changes
while packets flow."""

import pytest
from conftest import MAC_A, MAC_B

from support import frames
from support.frontend import (INDIRECT_DESC, MRG_RXBUF, VERSION_1, Frontend)
from support.pollux import PolluxSwitch

SMALL = [256 << 10] + [16 << 10] * 63


@pytest.fixture
def switch(pollux_path, supervisor):
    return PolluxSwitch(supervisor, ["a", "b"])


def exchange(a, b, sizes, **options):
    """Each size once from a to b and back; content is compared."""
    for size in sizes:
        one = frames.ethernet(MAC_B, MAC_A, size=size)
        a.send(one, **options)
        assert b.receive(1) == [one], f"{size} B"
        two = frames.ethernet(MAC_A, MAC_B, size=size)
        b.send(two)
        assert a.receive(1) == [two], f"{size} B, back"


def test_sixty_four_small_regions(switch):
    """Rings in one region, buffers in turn in 64, frames that span several of them."""
    with Frontend(switch.socket("a"), regions=SMALL, slots=True) as a, \
            Frontend(switch.socket("b"), regions=SMALL, slots=True) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        exchange(a, b, [60, 64, 1514])
        exchange(a, b, [64, 500, 1514, 6000], cuts=(12, 30, 50))
        exchange(a, b, [1514, 3000], cuts=(1, 11, 13, 26, 100, 700), indirect=True)
        memory = switch.port_infos()["a"]["memory"]
        assert "64" in memory, memory


@pytest.mark.parametrize("count", [1, 2, 8])
def test_memory_table(switch, count):
    """The older way: one table with all regions."""
    regions = [1 << 20] + [64 << 10] * (count - 1)
    with Frontend(switch.socket("a"), regions=regions) as a, \
            Frontend(switch.socket("b"), regions=regions) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        exchange(a, b, [60, 1514, 4000], cuts=(12, 40))


def test_buffer_across_adjacent_regions(switch):
    """Regions that follow each other in guest memory but not in the back end's: a frame lies
    over the seam."""
    with Frontend(switch.socket("a"), regions=[1 << 20] * 2, adjacent=True) as a, \
            Frontend(switch.socket("b")) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        seam = a.memory.regions[1].guest
        frame = frames.ethernet(MAC_B, MAC_A, size=1000)
        data = bytes(a.header_size) + frame
        for before in (1, 6, a.header_size, a.header_size + 14, 500, len(data) - 1):
            a.memory.write(seam - before, data)
            queue = a.queues[1]
            assert queue.add([(seam - before, len(data), False)], None)
            queue.publish()
            a.wait_sent()
            assert b.receive(1) == [frame], f"{before} bytes before the seam"


def test_slots_come_and_go_under_traffic(switch):
    """Memory is plugged in, used, and taken out again, while the rings go on."""
    with Frontend(switch.socket("a"), regions=[2 << 20], slots=True) as a, \
            Frontend(switch.socket("b"), regions=[2 << 20], slots=True) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        for turn in range(40):
            exchange(a, b, [60 + turn, 1514])
            added = a.memory.add(64 << 10)
            a.add_region(added)
            frame = frames.ethernet(MAC_B, MAC_A, size=700 + turn)
            a.memory.write(added.guest + turn, bytes(a.header_size) + frame)
            a.queues[1].add([(added.guest + turn, a.header_size + len(frame), False)], None)
            a.queues[1].publish()
            a.wait_sent()
            assert b.receive(1) == [frame]
            if turn % 2:
                a.remove_region(added)


def test_rings_stop_and_start_again(switch):
    """GET_VRING_BASE tells where the ring stopped; it goes on from there, and nothing is lost."""
    with Frontend(switch.socket("a")) as a, Frontend(switch.socket("b")) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        for turn in range(20):
            exchange(a, b, [60 + turn, 1000])
            for index in (0, 1):
                base = a.stop_queue(index)
                queue = a.queues[index]
                assert base == queue.last_used, "it had fetched more than it returned"
                a.start_queue(index, base)
            a.enable()


@pytest.mark.parametrize("features", [(), (MRG_RXBUF,), (VERSION_1,), (VERSION_1, MRG_RXBUF),
                                      (VERSION_1, MRG_RXBUF, INDIRECT_DESC)],
                         ids=["legacy", "legacy-mrg", "v1", "v1-mrg", "v1-mrg-indirect"])
@pytest.mark.parametrize("buffer_size", [256, 2048, 12000])
def test_features_and_buffer_sizes(switch, features, buffer_size):
    """Frames larger than a buffer need several of them, or are dropped under a name."""
    regions = [8 << 20]
    with Frontend(switch.socket("a"), features=features, regions=regions) as a, \
            Frontend(switch.socket("b"), features=features, regions=regions,
                     buffer_size=buffer_size) as b:
        a.start()
        b.start()
        switch.wait_attached("a", "b")
        b.send(frames.ethernet(MAC_A, MAC_B, size=60))
        a.receive(1)
        dropped = 0
        for size in (60, 243, 244, 245, 246, 1514, 2035, 2036, 2037, 2038, 9000):
            frame = frames.ethernet(MAC_B, MAC_A, size=size)
            a.send(frame)
            if MRG_RXBUF in features or size + b.header_size <= buffer_size:
                assert b.receive(1) == [frame], f"{size} B"
            else:
                dropped += 1
        drops = switch.counters()["b"].drops
        assert drops.get("tx receiver_too_small", 0) == dropped, drops
