# SPDX-License-Identifier: Apache-2.0
"""testpmd's virtio-user driver against the switch's vhost-user ports.

One switch serves all the cases of a kind in turn, so every case also tests that a port takes
a new peer with other features and ring sizes after the last one has gone.
"""

import itertools

import pytest
from conftest import Loop, assert_accounts_agree

from support.process import Supervisor, cpus
from support.switches import Port

pytestmark = pytest.mark.usefixtures("need_testpmd")


class SwitchKeeper:
    """Starts the switch for the first case, and anew if a case has killed it."""

    def __init__(self, make_switch, supervisor, **options):
        self._make, self._supervisor, self._options = make_switch, supervisor, options
        self._switch = None

    def get(self):
        if self._switch is None or not self._switch.child.alive():
            self._switch = self._make(self._supervisor, **self._options)
        return self._switch


@pytest.fixture(scope="module")
def plain(make_switch, module_supervisor):
    return SwitchKeeper(make_switch, module_supervisor, ports=["a", "b"], frame_size=9018)


@pytest.fixture(scope="module")
def chained(make_switch, module_supervisor):
    """Offers neither indirect descriptors nor mergeable buffers nor event indices."""
    return SwitchKeeper(make_switch, module_supervisor, ports=["m", "n"], frame_size=9018,
                        port_options="indirect=off,mrg=off,event-idx=off")


@pytest.fixture(scope="module")
def two_queues(make_switch, module_supervisor):
    """Two workers if there are two CPUs: each sends on a queue of its own."""
    return SwitchKeeper(make_switch, module_supervisor, cpus=cpus()[:2],
                        ports=[Port("p", queues=2), Port("q", queues=2)])


def carry(supervisor, switch, packets=20000, **options):
    """Runs the loop for at least `packets` a direction and compares all accounts."""
    names = [port.name for port in switch.ports]
    before = switch.counters()
    loop = Loop(supervisor, switch, a=names[0], b=names[1], **options)
    loop.start()
    loop.wait_packets(packets)
    seen = loop.stop()
    after = switch.counters()
    assert_accounts_agree(before, after, seen, names)
    loop.testpmd.quit()
    return loop


@pytest.mark.parametrize("size", [64, 512, 1518, 9000])
@pytest.mark.parametrize("mrg_rxbuf", [True, False], ids=["mergeable", "plain"])
def test_frame_sizes(supervisor, plain, mrg_rxbuf, size):
    loop = carry(supervisor, plain.get(), mrg_rxbuf=mrg_rxbuf, frame_size=size)
    assert ("mergeable buffer Rx" in loop.testpmd.routines()) == mrg_rxbuf


@pytest.mark.parametrize("queue_size", [64, 256, 512, 2048, 8192, 32768])
def test_ring_sizes(supervisor, plain, queue_size):
    loop = carry(supervisor, plain.get(), queue_size=queue_size)
    assert loop.testpmd.ring_sizes() == [queue_size]


@pytest.mark.parametrize("size", [64, 1518])
def test_vectorized_driver(supervisor, plain, size):
    loop = carry(supervisor, plain.get(), mrg_rxbuf=False, vectorized=True, frame_size=size)
    assert any("vectorized" in routine for routine in loop.testpmd.routines()), \
        loop.testpmd.routines()


@pytest.mark.parametrize("segments", [(64,), (60, 700, 700), (14, 50, 1000, 400, 36)],
                         ids=lambda s: f"{len(s)}-segments")
@pytest.mark.parametrize("indirect", [True, False], ids=["indirect", "chained"])
def test_segmented_frames(supervisor, plain, chained, indirect, segments):
    """Frames of several buffers: one indirect table, or a chain through the ring."""
    switch = (plain if indirect else chained).get()
    names = [port.name for port in switch.ports]
    before = switch.counters()
    loop = Loop(supervisor, switch, a=names[0], b=names[1], mrg_rxbuf=indirect,
                options=["--tx-offloads=0x8000"])  # MULTI_SEGS
    loop.switch.wait_attached(*names)
    loop.testpmd.start_loop(128, segments)
    loop.wait_packets(20000)
    seen = loop.stop()
    assert_accounts_agree(before, switch.counters(), seen, names)
    assert seen[0].rx_bytes == seen[0].rx_packets * sum(segments)


@pytest.mark.parametrize("mrg_rxbuf", [True, False], ids=["mergeable", "plain"])
def test_two_queue_pairs(supervisor, two_queues, mrg_rxbuf):
    """Both queue pairs of a port carry packets."""
    switch = two_queues.get()
    loop = carry(supervisor, switch, queues=2, mrg_rxbuf=mrg_rxbuf, queue_size=1024,
                 options=["--txonly-multi-flow"])
    assert all(bits >> 22 & 1 for bits in loop.testpmd.negotiated()), "MQ was not negotiated"
    if switch.kind == "pollux":
        report = switch.stats()
        workers = len(report["workers"])
        for port in report["ports"]:
            idle = [q["name"] for q in port["queues"] if not q["packets"] and
                    not (q["name"].startswith("tx") and int(q["name"][2:]) >= workers)]
            assert not idle, f"queues of port {port['name']} without a packet: {idle}"


def test_one_queue_pair_of_two(supervisor, two_queues):
    """A driver that uses fewer queues than it is offered gets all of its packets."""
    carry(supervisor, two_queues.get(), queues=1)


@pytest.mark.parametrize("victim", ["generator", "switch"])
def test_killed_under_traffic(make_switch, supervisor, victim):
    """`kill -9` of either side under traffic, five times: the other goes on with the next one."""
    switch = make_switch(supervisor, ["a", "b"])
    for _ in range(5):
        with Supervisor() as once:
            loop = Loop(once, switch)
            loop.start()
            loop.wait_packets(10000)
            if victim == "switch":
                switch.child.kill()
                switch = make_switch(supervisor, ["a", "b"])
            else:
                loop.testpmd.child.kill()
    carry(supervisor, switch)


def test_switch_connects_to_the_driver(make_switch, supervisor):
    """server=off: testpmd listens. The switch is killed under traffic and comes back, and the
    traffic goes on without a restart of testpmd."""
    ports = [Port("a", server=False), Port("b", server=False)]
    sockets_of = make_switch(supervisor, ports)
    loop = Loop(supervisor, sockets_of, server=True, start_timeout=60)
    switch = sockets_of
    for turn in itertools.count():
        loop.switch = switch
        loop.start()
        loop.wait_packets(10000)
        if turn == 3:
            break
        switch.child.kill()
        loop.testpmd.stop()
        switch = make_switch(supervisor, ports)
