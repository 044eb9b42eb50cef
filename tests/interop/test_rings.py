# SPDX-License-Identifier: Apache-2.0
"""Every kind of ring that testpmd's virtio-user has: packed or split, in order or not, mergeable
or not, vectorized or not; and packed rings of sizes that are no power of two."""

import itertools

import pytest
from conftest import Loop, assert_accounts_agree

from support.process import Supervisor, cpus
from support.switches import Port

pytestmark = pytest.mark.usefixtures("need_testpmd")

RING_PACKED, IN_ORDER = 34, 35


@pytest.fixture(scope="module")
def switch(make_switch, module_supervisor):
    return make_switch(module_supervisor, ports=["a", "b"], frame_size=1518)


def carry(supervisor, switch, packets=20000, **options):
    """Runs the loop for at least `packets` a direction and compares all accounts."""
    names = [port.name for port in switch.ports]
    before = switch.counters()
    loop = Loop(supervisor, switch, a=names[0], b=names[1], **options)
    loop.start()
    loop.wait_packets(packets)
    seen = loop.stop()
    assert_accounts_agree(before, switch.counters(), seen, names)
    return loop


def formats(switch):
    """The formats of all rings that run."""
    return {ring["format"] for port in switch.port_infos().values() for ring in port["rings"]
            if ring["size"]}


def case_name(case):
    names = ("packed", "in-order", "mergeable", "vectorized")
    return "-".join(name for name, on in zip(names, case) if on) or "plain"


def has_avx512():
    with open("/proc/cpuinfo", encoding="ascii") as text:
        flags = text.read()
    return all(f"avx512{part}" in flags for part in ("f", "bw", "vl"))


@pytest.mark.parametrize("case", list(itertools.product([False, True], repeat=4)), ids=case_name)
def test_kinds(supervisor, switch, case):
    packed, in_order, mrg_rxbuf, vectorized = case
    loop = carry(supervisor, switch, packed=packed, in_order=in_order, mrg_rxbuf=mrg_rxbuf,
                 vectorized=vectorized)
    for bits in loop.testpmd.negotiated():
        assert (bits >> RING_PACKED & 1, bits >> IN_ORDER & 1) == (packed, in_order)
    assert formats(switch) == {("packed" if packed else "split") +
                               (" in-order" if in_order else "")}
    loop.testpmd.quit()


@pytest.mark.skipif(not has_avx512(), reason="testpmd's packed vector routines want AVX-512")
def test_packed_vector_routines(supervisor, switch):
    loop = carry(supervisor, switch, packed=True, in_order=True, mrg_rxbuf=False, vectorized=True,
                 eal_options=["--force-max-simd-bitwidth=512"])
    assert {"packed ring vectorized Rx", "packed ring vectorized Tx"} == loop.testpmd.routines()
    loop.testpmd.quit()


@pytest.mark.parametrize("queue_size", [33, 1000, 4095])
@pytest.mark.parametrize("in_order", [False, True], ids=["any-order", "in-order"])
def test_packed_ring_sizes(supervisor, switch, queue_size, in_order):
    loop = carry(supervisor, switch, packed=True, in_order=in_order, queue_size=queue_size)
    assert loop.testpmd.ring_sizes() == [queue_size]
    assert {ring["size"] for port in switch.port_infos().values() for ring in port["rings"]} == {
        queue_size}
    loop.testpmd.quit()


@pytest.mark.parametrize("size", [512, 1518])
def test_packed_frame_sizes(supervisor, switch, size):
    carry(supervisor, switch, packed=True, in_order=True, frame_size=size).testpmd.quit()


@pytest.fixture(scope="module")
def direct(make_switch, module_supervisor):
    """Does not offer indirect descriptors: frames of several buffers are chains in the ring."""
    return make_switch(module_supervisor, ports=["m", "n"], port_options="indirect=off")


@pytest.mark.parametrize("in_order", [False, True], ids=["any-order", "in-order"])
@pytest.mark.parametrize("indirect", [True, False], ids=["indirect", "chained"])
def test_packed_segmented_frames(supervisor, switch, direct, indirect, in_order):
    segments = (14, 50, 1000, 400, 36)
    to = switch if indirect else direct
    names = [port.name for port in to.ports]
    before = to.counters()
    loop = Loop(supervisor, to, a=names[0], b=names[1], packed=True, in_order=in_order,
                options=["--tx-offloads=0x8000"])  # MULTI_SEGS
    to.wait_attached(*names)
    loop.testpmd.start_loop(128, segments)
    loop.wait_packets(10000)
    seen = loop.stop()
    assert_accounts_agree(before, to.counters(), seen, names)
    assert seen[0].rx_bytes == seen[0].rx_packets * sum(segments)
    loop.testpmd.quit()


def test_packed_queue_pairs(make_switch, supervisor):
    two = make_switch(supervisor, cpus=cpus()[:2], ports=[Port("p", queues=2), Port("q", queues=2)])
    loop = carry(supervisor, two, queues=2, packed=True, in_order=True,
                 options=["--txonly-multi-flow"])
    assert len(formats(two)) == 1
    loop.testpmd.quit()


def test_withheld_features(make_switch, supervisor):
    """What a port does not offer its peer does not use, whatever it would like."""
    plain = make_switch(supervisor, ["x", "y"], port_options="packed=off,in-order=off")
    loop = carry(supervisor, plain, packed=True, in_order=True)
    assert formats(plain) == {"split"}
    loop.testpmd.quit()


@pytest.mark.parametrize("victim", ["generator", "switch"])
def test_packed_killed_under_traffic(make_switch, supervisor, victim):
    """`kill -9` of either side under traffic: the other goes on with the next one."""
    switch = make_switch(supervisor, ["a", "b"])
    for _ in range(2):
        with Supervisor() as once:
            loop = Loop(once, switch, packed=True, in_order=True)
            loop.start()
            loop.wait_packets(10000)
            if victim == "switch":
                switch.child.kill()
                switch = make_switch(supervisor, ["a", "b"])
            else:
                loop.testpmd.child.kill()
    carry(supervisor, switch, packed=True, in_order=True)


def test_packed_switch_comes_back(make_switch, supervisor):
    """server=off: testpmd listens, and sets its rings up anew for each switch."""
    ports = [Port("a", server=False), Port("b", server=False)]
    switch = make_switch(supervisor, ports)
    loop = Loop(supervisor, switch, server=True, packed=True, in_order=True, start_timeout=60)
    for turn in range(3):
        loop.switch = switch
        loop.start()
        loop.wait_packets(10000)
        if turn == 2:
            break
        switch.child.kill()
        loop.testpmd.stop()
        switch = make_switch(supervisor, ports)
