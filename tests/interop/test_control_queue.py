# SPDX-License-Identifier: Apache-2.0
"""The control queue and the configuration space of a vhost-user port, to a driver of our own:
each command is sent in a chain split anywhere, and its effect on packets is looked at."""

import os
import struct

import pytest

from support import frames
from support.control_driver import Driver
from support.frontend import (CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MQ, MRG_RXBUF,
                              SET_PROTOCOL_FEATURES, VERSION_1, Frontend)
from support.pollux import PolluxSwitch, check_conservation, counters_of
from support.process import wait_until
from support.switches import Port

CTRL_GUEST_OFFLOADS, MAC_BIT, STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN = 2, 5, 16, 17, 18, 19
CTRL_RX_EXTRA, GUEST_ANNOUNCE, CTRL_MAC_ADDR = 20, 21, 23
CONTROL = (VERSION_1, MRG_RXBUF, CTRL_VQ, CTRL_RX, CTRL_RX_EXTRA, CTRL_VLAN, CTRL_MAC_ADDR,
           GUEST_ANNOUNCE)
OFFLOADS = (CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4)
GET_CONFIG, P_CONFIG = 24, 9
OWN, OTHER, SENDER = "52:54:00:00:00:01", "52:54:00:00:00:02", "02:00:00:00:00:09"
GROUP, BROADCAST = "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"

pytestmark = pytest.mark.usefixtures("pollux_path")


@pytest.fixture
def pair(supervisor, request):
    """(switch, sender, driver with a control queue)."""
    features, pairs = getattr(request, "param", (CONTROL, 1))
    switch = PolluxSwitch(supervisor, ["s", Port("d", queues=pairs)],
                          port_options="ctrl-queue=on")
    sender = supervisor.enter(Frontend(switch.socket("s"), regions=[4 << 20],
                                       features=(VERSION_1, MRG_RXBUF, *OFFLOADS)))
    sender.start()
    driver = supervisor.enter(Driver(switch.socket("d"), features=features, pairs=pairs,
                                     regions=[8 << 20]))
    driver.start()
    switch.wait_attached("s", "d")
    return switch, sender, driver


def passes(sender, driver, frame):
    """Whether a frame reaches the driver; a broadcast behind it tells when to stop waiting."""
    mark = frames.ethernet(BROADCAST, SENDER, b"mark" + os.urandom(8), size=60)
    sender.send(frame)
    sender.send(mark)
    got = []
    wait_until(lambda: got.extend(driver.poll()) or mark in got, 10, "the mark arrives", 0.0005)
    return frame in got


def to(address, size=60, tag=b""):
    frame = frames.ethernet(address, SENDER, os.urandom(8), size=size)
    return frame[:12] + tag + frame[12:]


def test_receive_modes(pair):
    switch, sender, driver = pair

    def seen():
        return "".join(str(int(passes(sender, driver, to(a)))) for a in (OWN, OTHER, GROUP))
    assert seen() == "111", "a driver that has not said anything gets everything"
    driver.do(b"\x01\x01" + frames.mac(OWN), cuts=(1, 2, 3, 4, 5, 6, 7))
    driver.do(b"\x00\x00\x00", cuts=(1,))
    assert seen() == "100"
    driver.do(b"\x00\x01\x01", cuts=(2,))
    assert seen() == "101"
    driver.do(b"\x00\x03\x01")
    assert seen() == "100"
    driver.do(b"\x00\x03\x00")
    driver.do(b"\x00\x01\x00")
    driver.do(b"\x00\x02\x01")
    assert seen() == "110"
    driver.do(b"\x00\x04\x01")
    assert seen() == "000"
    driver.do(b"\x00\x04\x00")
    driver.do(b"\x00\x02\x00")
    table = (b"\x01\x00" + struct.pack("<I", 1) + frames.mac(OTHER) + struct.pack("<I", 1) + frames.mac(GROUP))
    driver.do(table, cuts=range(1, len(table)))
    assert seen() == "111"
    info = switch.port_infos()["d"]
    assert "1 unicast and 1 multicast" in info["control"] and info["mac"] == OWN
    driver.do(b"\x00\x00\x01")
    assert seen() == "111"
    report = switch.finish()
    assert counters_of(report)["d"].drops["tx receiver_filter"] > 0
    check_conservation(report)


def test_vlan_filter(pair):
    _, sender, driver = pair
    tag = b"\x81\x00\x00\x05"
    driver.do(b"\x01\x01" + frames.mac(OWN))
    driver.do(b"\x00\x00\x00")
    assert passes(sender, driver, to(OWN))
    assert not passes(sender, driver, to(OWN, tag=tag))
    driver.do(b"\x02\x00\x05\x00")
    assert passes(sender, driver, to(OWN, tag=tag))
    driver.do(b"\x02\x01\x05\x00")
    assert not passes(sender, driver, to(OWN, tag=tag))


@pytest.mark.parametrize("pair", [((*CONTROL, MQ), 2)], indirect=True, ids=["two-pairs"])
def test_queue_pairs(pair):
    """Before it is told otherwise, and after, the device uses as many receiveqs as the driver
    said."""
    switch, sender, driver = pair

    def disable_first():
        driver.tell(18, struct.pack("<II", 0, 0))
    disable_first()
    for _ in range(5):
        sender.send(to(BROADCAST))
    wait_until(lambda: counters_of(switch.stats())["d"].drops.get("tx receiver_down") == 5, 10,
               "frames have nowhere to go", 0.05)
    assert driver.poll() == []
    driver.do(b"\x04\x00\x02\x00")
    frame = to(BROADCAST)
    sender.send(frame)
    assert driver.receive(1, timeout=10) == [frame], "receiveq2 may be used now"
    assert "2 of 2 queue pairs" in switch.port_infos()["d"]["control"]
    driver.do(b"\x04\x00\x01\x00")
    sender.send(to(BROADCAST))
    wait_until(lambda: counters_of(switch.stats())["d"].drops.get("tx receiver_down") == 6, 10,
               "receiveq2 is not used any more", 0.05)
    driver.refused(b"\x04\x00\x00\x00")
    driver.refused(b"\x04\x00\x03\x00")


@pytest.mark.parametrize("pair", [((*CONTROL, CTRL_GUEST_OFFLOADS, *OFFLOADS), 1)],
                         indirect=True, ids=["offloads"])
def test_offloads_off_and_on(pair):
    """A large segment arrives whole, in pieces with sums, and whole again."""
    _, sender, driver = pair
    header = struct.pack("<BBHHHH", 1, 1, 54, 1460, 34, 16)
    large = frames.tcp4(OWN, SENDER, "10.0.0.1", "10.0.0.2", frames.pattern(1, 5 * 1460),
                        partial=True)

    def arrives(count):
        sender.send(large, header=header)
        return driver.receive_with_headers(count, timeout=10)
    (got_header, got), = arrives(1)
    assert got == large and got_header[:2] == b"\x01\x01"
    driver.do(b"\x05\x00" + struct.pack("<Q", 0))
    for got_header, got in arrives(5):
        assert len(got) == 1514 and got_header[:10] == bytes(10)
        assert frames.l4_checksum_valid(got)
    driver.do(b"\x05\x00" + struct.pack("<Q", 1 << GUEST_CSUM))
    for got_header, got in arrives(5):
        assert len(got) == 1514 and got_header[:2] == b"\x01\x00"
    driver.do(b"\x05\x00" + struct.pack("<Q", 1 << GUEST_CSUM | 1 << GUEST_TSO4))
    assert arrives(1)[0][1] == large
    driver.refused(b"\x05\x00" + struct.pack("<Q", 1 << 8))  # TSO6 was not negotiated


HOSTILE = {
    "unknown_class": b"\x09\x00\x00",
    "unknown_command": b"\x00\x09\x00",
    "class_alone": b"\x00",
    "mac_count_overflows": b"\x01\x00" + struct.pack("<I", 0xFFFFFFFF) + bytes(12),
    "mac_count_wraps": b"\x01\x00" + struct.pack("<I", 0x2AAAAAAB) + bytes(12),
    "vlan_out_of_range": b"\x02\x00\xff\xff",
    "rss_not_offered": b"\x04\x01" + bytes(14),
    "longer_than_anything": b"\x01\x00" + bytes(66000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_command(pair, name):
    """Is refused, and nothing else changes."""
    _, sender, driver = pair
    driver.refused(HOSTILE[name])
    driver.do(b"\x00\x00\x01")
    assert passes(sender, driver, to(OTHER))


@pytest.mark.parametrize("tail", [(), ((0, True),), ((1, True), (1, False))],
                         ids=["no-ack", "ack-of-no-bytes", "readable-behind-writable"])
def test_hostile_chain(pair, tail):
    """A chain without room for the answer, or in the wrong order, comes back; the queue goes on."""
    _, sender, driver = pair
    _, written = driver.command(b"\x00\x00\x00", tail=tail)
    assert written in (0, 1)
    if not tail or tail[0][0] == 0:
        assert written == 0
        assert passes(sender, driver, to(OTHER)), "it was not carried out"
    driver.do(b"\x00\x00\x01")
    assert passes(sender, driver, to(OTHER))


def test_many_commands_at_once(pair):
    """All are carried out, although none but the first is told of."""
    _, _, driver = pair
    driver.memory.write(driver.room, b"\x00\x00\x01")
    for number in range(30):
        assert driver.control.add([(driver.room, 3, False), (driver.room + 16 + number, 1, True)],
                                  number)
    driver.control.publish()
    done = []
    wait_until(lambda: done.extend(driver.control.take_used()) or len(done) == 30, 10,
               "all commands come back", 0.001)
    assert [token for token, _ in done] == list(range(30))
    assert driver.memory.read(driver.room + 16, 30) == bytes(30)


def test_a_new_driver_starts_anew(pair, supervisor):
    """What one driver asked for does not outlive it."""
    switch, sender, driver = pair
    driver.do(b"\x01\x01" + frames.mac(OWN))
    driver.do(b"\x00\x00\x00")
    assert not passes(sender, driver, to(OTHER))
    driver.close()
    switch.wait_detached("d")
    driver = supervisor.enter(Driver(switch.socket("d"), features=CONTROL, regions=[8 << 20]))
    driver.start()
    switch.wait_attached("d")
    assert passes(sender, driver, to(OTHER))


def test_configuration_space(supervisor):
    """GET_CONFIG: address, status, queue pairs, MTU, speed and duplex, and parts of it."""
    switch = PolluxSwitch(supervisor, [Port("d", queues=2)],
                          port_options=f"mac={OWN},mtu=9000,speed=10000")
    driver = supervisor.enter(Frontend(switch.socket("d"), features=(VERSION_1, MAC_BIT, STATUS)))
    driver.negotiate()
    assert driver.features >> MAC_BIT & 1 and driver.features >> STATUS & 1
    driver.message(SET_PROTOCOL_FEATURES, struct.pack("<Q", driver.protocol | 1 << P_CONFIG))

    def config(offset, size):
        reply = driver.ask(GET_CONFIG, struct.pack("<III", offset, size, 0) + bytes(size))
        return reply[12:]
    assert config(0, 17) == frames.mac(OWN) + struct.pack("<HHHIB", 1, 2, 9000, 10000, 1)
    assert config(10, 2) == struct.pack("<H", 9000)
    assert driver.ask(GET_CONFIG, struct.pack("<III", 20, 236, 0) + bytes(236)) == b""
    assert switch.port_infos()["d"]["mac"] == OWN


@pytest.mark.parametrize("options", ["", ",packed=only,queue-size=111", ",packed=only,in-order=only",
                                     ",in-order=only"])
def test_our_own_driver(supervisor, options):
    """A virtio-user port says by the control queue what it wants, and frames go both ways."""
    far = supervisor.path("far")
    switch = PolluxSwitch(supervisor, [Port("v", queues=4), "near"], port_options="ctrl-queue=on")
    driver = PolluxSwitch(supervisor, name="driver", specs={
        "u": f"virtio-user:{switch.socket('v')},queues=2,ctrl-queue=only,mac={OWN}{options}",
        "far": f"vhost-user:{far}"})
    driver.wait_attached("u")
    switch.wait_attached("v")
    info = switch.port_infos()["v"]
    assert info["control"] == "promiscuous; 2 of 4 queue pairs" and info["mac"] == OWN
    with Frontend(switch.socket("near")) as a, Frontend(far) as b:
        a.start()
        b.start()
        switch.wait_attached("near")
        driver.wait_attached("far")
        for size in (60, 1514):
            there, back = (frames.ethernet(OTHER, SENDER, size=size),
                           frames.ethernet(SENDER, OTHER, size=size))
            a.send(there)
            assert b.receive(1, timeout=20) == [there]
            b.send(back)
            assert a.receive(1, timeout=20) == [back]
    check_conservation(driver.finish())
    check_conservation(switch.finish())
