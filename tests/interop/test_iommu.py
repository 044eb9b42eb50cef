# SPDX-License-Identifier: Apache-2.0
"""Front ends behind an IOMMU: addresses are I/O virtual, and the switch asks for what they mean."""

import random
import re

import pytest

from support import frames
from support.frontend import INDIRECT_DESC, MRG_RXBUF, VERSION_1, Frontend
from support.iommu import PAGE, UPDATE, INVALIDATE, IommuFrontend
from support.pollux import PolluxSwitch, check_conservation
from support.process import wait_until

MAC_A, MAC_B = "02:00:00:00:00:a1", "02:00:00:00:00:b2"

pytestmark = pytest.mark.usefixtures("pollux_path")


def told(switch, port="b"):
    """What the port says of its IOMMU, as numbers by name."""
    text = switch.port_infos()[port]["iommu"]
    return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", text)}


def pair(supervisor, **options):
    """(switch, plain front end a, front end b behind an IOMMU); they know each other."""
    switch = PolluxSwitch(supervisor, ["a", "b"])
    a = supervisor.enter(Frontend(switch.socket("a")))
    b = supervisor.enter(IommuFrontend(switch.socket("b"), **options))
    a.start()
    b.start()
    switch.wait_attached("a", "b", poke=b.serve)
    b.send(frames.ethernet(MAC_A, MAC_B, size=60), timeout=30)
    a.receive(1, timeout=30)
    a.send(frames.ethernet(MAC_B, MAC_A, size=60), timeout=30)
    return switch, a, b


def deliver(a, b, frame, timeout=30):
    """Sends a frame to b until it arrives: the first ones may find buffers not mapped yet."""
    def arrived():
        a.send(frame)
        b.serve(0.01)
        return frame in b.poll()
    wait_until(arrived, timeout, "a frame arrives behind the IOMMU", 0.005)


@pytest.mark.parametrize("features", [(VERSION_1, MRG_RXBUF), (VERSION_1, INDIRECT_DESC),
                                      (VERSION_1,)], ids=["mergeable", "indirect", "plain"])
def test_both_ways(supervisor, features):
    """Frames of all sizes both ways, with buffers over scattered pages."""
    switch, a, b = pair(supervisor, features=features)
    rng = random.Random(5)
    for number in range(150):
        frame = frames.ethernet(MAC_A, MAC_B, payload=rng.randbytes(rng.randint(46, 1500)))
        cuts = (12,) if number % 3 == 0 else ()
        b.send(frame, cuts=cuts, indirect=INDIRECT_DESC in features and number % 2 == 0,
               timeout=30)
        assert a.receive(1, timeout=30) == [frame]
    for _ in range(150):
        deliver(a, b, frames.ethernet(MAC_B, MAC_A, payload=rng.randbytes(rng.randint(46, 1500))))
    seen = told(switch)
    assert seen["misses"] < 2000 and seen["faults"] == 0, seen
    asked = [(guest & -PAGE, access) for guest, access in b.misses]
    assert len(asked) == len(set(asked)), "no page is asked for twice"
    check_conservation(switch.finish())


def test_nothing_is_used_after_it_was_taken_back(supervisor):
    """Pages of receive buffers move while frames come in; where they were before, nothing is
    written once the back end has said that it has forgotten them."""
    switch, a, b = pair(supervisor)
    rng = random.Random(9)
    watched = {}
    for number in range(300):
        page = rng.choice(b.memory.scattered_pages())
        b.unmap_page(page)
        region, old = b.memory.move(page)
        region.map[old:old + PAGE] = b"\xa5" * PAGE
        watched[old] = region
        for frame_number in range(3):
            a.send(frames.ethernet(MAC_B, MAC_A, payload=rng.randbytes(1000)))
        b.serve()
        b.poll()
        for at in list(watched):
            if all(b.memory.find(p) != (region, at) for p in b.memory.scattered_pages()):
                assert region.map[at:at + PAGE] == b"\xa5" * PAGE, f"round {number}"
            else:
                del watched[at]  # in use again
    frame = frames.ethernet(MAC_B, MAC_A, payload=b"the end".ljust(100))
    deliver(a, b, frame)
    assert told(switch)["invalidations"] == 300
    check_conservation(switch.finish())


def test_silence_costs_only_its_own_port(supervisor):
    """A front end that never answers a miss: its frames wait, everybody else's pass."""
    switch, a, b = pair(supervisor)
    c_socket = supervisor.path("c.sock")
    switch.add_port("c", f"vhost-user:{c_socket}")
    c = supervisor.enter(Frontend(c_socket))
    c.start()
    switch.wait_attached("c")
    b.silent = True
    if b.iotlb(INVALIDATE, 0, 0):
        pytest.fail("an invalidation of everything is refused")
    mac_c = "02:00:00:00:00:c3"
    c.send(frames.ethernet(MAC_A, mac_c, size=60))
    a.receive(1, timeout=30)
    for _ in range(50):
        frame = frames.ethernet(mac_c, MAC_A, payload=random.randbytes(200))
        a.send(frame)
        a.send(frames.ethernet(MAC_B, MAC_A, size=100))
        assert c.receive(1, timeout=30) == [frame]
    info = switch.port_infos()["b"]
    assert not info["link_up"] and not info["broken"], info
    asked = b.serve()
    assert 1 <= asked <= 32, "no flood"
    # It was only slow.
    b.silent = False
    for guest, _ in b.misses[-asked:]:
        b.map_page(guest)
    wait_until(lambda: b.serve() >= 0 and switch.port_infos()["b"]["link_up"], 30, "b is back")
    b.send(frames.ethernet(MAC_A, MAC_B, size=60), timeout=30)
    check_conservation(switch.finish())


def test_refusal_is_a_fault(supervisor):
    """A descriptor that the IOMMU does not let the device read: dropped under its reason."""
    switch, a, b = pair(supervisor)
    page = b.memory.scattered_pages()[-1]
    b.refused.add(page)
    queue = b.queues[1]
    queue.add([(page, 100, False)], None)
    queue.publish()
    b.wait_sent(timeout=30)
    assert switch.counters()["b"].drops == {"rx bad_address": 1}
    assert told(switch)["faults"] == 1
    b.refused.clear()
    b.map_page(page)
    frame = frames.ethernet(MAC_A, MAC_B, size=88)
    b.memory.write(page, bytes(b.header_size) + frame)
    queue.add([(page, b.header_size + len(frame), False)], None)
    queue.publish()
    b.wait_sent(timeout=30)
    assert a.receive(1, timeout=30) == [frame]
    assert b.iotlb(UPDATE, 1 << 63, PAGE, 0x1234) == 1, "not its memory"
    check_conservation(switch.finish())


def test_off(supervisor):
    """iommu=off: not offered."""
    switch = PolluxSwitch(supervisor, ["b"], port_options="iommu=off")
    with IommuFrontend(switch.socket("b")) as b, pytest.raises(Exception, match="IOMMU"):
        b.start()
