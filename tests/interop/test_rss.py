# SPDX-License-Identifier: Apache-2.0
"""Which receiveq a frame arrives in. Receive-side scaling and hash reports (VIRTIO 1.3, 5.1.6.4.3,
5.1.6.5.7): frames of the flows whose hashes Microsoft publishes arrive in the receiveq that the
driver's table names for them, with that hash in their header. Without, automatic receive steering
(5.1.6.5.6): answers arrive beside the transmitq that asked."""

import struct

import pytest

from support import frames
from support.control_driver import HASH_REPORT, Driver
from support.frontend import MQ, MRG_RXBUF, SET_VRING_ENABLE, VERSION_1, Frontend
from support.pollux import PolluxSwitch, check_conservation, counters_of
from support.process import wait_until
from support.switches import Port

CTRL_VQ, RSS = 17, 60
PAIRS = 4
OWN, SENDER = "52:54:00:00:00:01", "02:00:00:00:00:09"
KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
IPV4, TCPV4, UDPV4, IPV6, TCPV6, UDPV6 = 1, 2, 4, 8, 16, 32
ALL = 63
# (from, port, to, port): hash of the addresses, of addresses and ports.
FLOWS = {
    ("66.9.149.187", 2794, "161.142.100.80", 1766): (0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739): (0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024): (0xD2D0A5DE, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217): (0x82989176, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303): (0x5D1809C5, 0x10E828A2),
}

pytestmark = pytest.mark.usefixtures("pollux_path")


def udp(flow):
    source, source_port, destination, port = flow
    return frames.udp4(OWN, SENDER, source, destination, b"payload",
                       ports=(source_port, port))


def rss(types, table, unclassified=0, max_tx=PAIRS, key=KEY):
    return (b"\x04\x01" + struct.pack("<IHH", types, len(table) - 1, unclassified) +
            struct.pack(f"<{len(table)}HHB", *table, max_tx, len(key)) + key)


def take(driver, pair):
    """(receiveq, header, frame) of what has come into one; its buffers go back."""
    queue, size = driver.queues[2 * pair], driver.header_size
    for address, length in queue.take_used():
        data = driver.memory.read(address, length)
        queue.add([(address, driver.buffer_size, True)], address)
        queue.publish()
        yield pair, data[:size], data[size:]


def arrives(driver):
    """(receiveq, header, frame) of the next frame."""
    got = []
    wait_until(lambda: [got.extend(take(driver, pair)) for pair in range(PAIRS)] and got, 20,
               "a frame arrives", 0.0005)
    assert len(got) == 1
    return got[0]


def report_of(header):
    """(hash, kind) that a header reports."""
    return struct.unpack_from("<IH", header, 12)


@pytest.fixture(params=[(), (HASH_REPORT,)], ids=["steering", "steering-and-report"])
def ends(request, supervisor):
    """(switch, sender, driver)."""
    switch = PolluxSwitch(supervisor, ["s", Port("d", queues=PAIRS)],
                          port_options="ctrl-queue=on")
    sender = supervisor.enter(Frontend(switch.socket("s")))
    driver = supervisor.enter(Driver(
        switch.socket("d"), pairs=PAIRS, queue_size=64, regions=[4 << 20],
        features=(VERSION_1, MRG_RXBUF, CTRL_VQ, MQ, RSS, *request.param)))
    for end in (sender, driver):
        end.start()
    switch.wait_attached("s", "d")
    assert driver.features >> RSS & 1
    return switch, sender, driver


def test_known_hashes(ends):
    switch, sender, driver = ends
    reports = driver.features >> HASH_REPORT & 1
    table = [(i * 3 + 1) % PAIRS for i in range(128)]
    for types in (ALL, IPV4, TCPV4 | IPV4, UDPV4):
        driver.do(rss(types, table))
        for flow, (of_addresses, of_ports) in FLOWS.items():
            frame = udp(flow)
            sender.send(frame)
            pair, header, got = arrives(driver)
            expected, kind = (of_ports, 3) if types & UDPV4 else (of_addresses, 1)
            assert got == frame
            assert pair == table[expected & 127], f"{flow} with types {types}"
            if reports:
                assert report_of(header) == (expected, kind)
    assert "RSS by a table of 128" in switch.port_infos()["d"]["control"]
    # What is not hashed, and what has no kind that is enabled.
    driver.do(rss(TCPV4, table, unclassified=2))
    for frame in (udp(next(iter(FLOWS))), frames.ethernet(OWN, SENDER, size=60)):
        sender.send(frame)
        pair, header, got = arrives(driver)
        assert (pair, got) == (2, frame)
        if reports:
            assert report_of(header) == (0, 0)
    check_conservation(switch.finish())


def test_receiveqs_come_and_go(ends):
    """A receiveq that is disabled is stood in for; VQ_PAIRS_SET ends RSS; frames are large and
    small, and all arrive."""
    switch, sender, driver = ends
    driver.do(rss(ALL, [3, 3]))
    frame = udp(next(iter(FLOWS)))

    def lane():
        sender.send(frame)
        return arrives(driver)[0]
    assert lane() == 3
    driver.tell(SET_VRING_ENABLE, struct.pack("<II", 6, 0))
    assert lane() == 0
    driver.tell(SET_VRING_ENABLE, struct.pack("<II", 6, 1))
    assert lane() == 3
    driver.do(b"\x04\x00\x01\x00")
    assert lane() == 0
    assert "RSS" not in switch.port_infos()["d"]["control"]
    driver.refused(rss(ALL, [3, 4]))
    driver.refused(rss(ALL, [0, 0, 0]))
    assert lane() == 0


def test_a_full_receiveq_holds_nothing_up(ends):
    """What is for a receiveq that is full is dropped; what is for others in the same bursts
    arrives."""
    switch, sender, driver = ends
    flows = list(FLOWS)
    full, free = flows[0], flows[1]  # their hashes' last bits are 00 and 10
    driver.do(rss(ALL, [1, 1, 2, 2]))
    batch = [udp(full), udp(free)] * 10
    for _ in range(10):
        sender.send_batch(batch)
        got = []
        wait_until(lambda: got.extend(take(driver, 2)) or len(got) == 10, 20,
                   "the other receiveq's frames arrive", 0.0005)
    wait_until(lambda: counters_of(switch.stats())["d"].drops.get("tx receiver_ring_full") == 36,
               20, "what does not fit is counted", 0.02)
    assert len(driver.queues[2].take_used()) == 64
    check_conservation(switch.finish())


def test_header_of_frames_that_are_sent(ends):
    """With HASH_REPORT the driver's own headers are of 20 bytes, too, cut anywhere."""
    _, sender, driver = ends
    frame = frames.ethernet(SENDER, OWN, size=300)
    for cuts in ((), (12,), (19,), (20,), (3, 21)):
        driver.send(frame, cuts=cuts)
        assert sender.receive(1, timeout=20) == [frame]


def connect(supervisor, options=""):
    """(switch, sender, driver) with a driver of several queue pairs and no control queue."""
    switch = PolluxSwitch(supervisor, ["s", Port("d", queues=PAIRS)], port_options=options)
    sender = supervisor.enter(Frontend(switch.socket("s")))
    driver = supervisor.enter(Frontend(switch.socket("d"), pairs=PAIRS, queue_size=64,
                                       regions=[4 << 20],
                                       features=(VERSION_1, MRG_RXBUF, MQ)))
    for end in (sender, driver):
        end.start()
    switch.wait_attached("s", "d")
    return switch, sender, driver


def ask(sender, driver, flow, pair):
    """The driver sends in a flow, by that transmitq."""
    source, source_port, destination, port = flow
    request = frames.udp4(SENDER, OWN, destination, source, b"request",
                          ports=(port, source_port))
    driver.send(request, pair=pair)
    assert sender.receive(1, timeout=20) == [request]


def answer(sender, driver, flow):
    """The receiveq in which the answer arrives."""
    frame = udp(flow)
    sender.send(frame)
    pair, _, got = arrives(driver)
    assert got == frame
    return pair


def test_answers_arrive_where_they_are_waited_for(supervisor):
    switch, sender, driver = connect(supervisor)
    for turn in range(PAIRS):
        for number, flow in enumerate(FLOWS):
            ask(sender, driver, flow, (number + turn) % PAIRS)
        for number, flow in enumerate(FLOWS):
            assert answer(sender, driver, flow) == (number + turn) % PAIRS
    # A receiveq that is disabled is stood in for by one that is not, and comes back.
    flow = next(iter(FLOWS))
    ask(sender, driver, flow, 3)
    assert answer(sender, driver, flow) == 3
    driver.tell(SET_VRING_ENABLE, struct.pack("<II", 6, 0))
    assert len({answer(sender, driver, flow) for _ in range(4)} | {3}) == 2
    driver.tell(SET_VRING_ENABLE, struct.pack("<II", 6, 1))
    assert answer(sender, driver, flow) == 3
    check_conservation(switch.finish())


def test_flows_that_nobody_asked_for_are_spread(supervisor):
    """Each stays in its receiveq, and all receiveqs have some."""
    switch, sender, driver = connect(supervisor)
    flows = [("10.0.0.1", 1000 + number, "10.0.0.2", 80) for number in range(64)]
    seen = [answer(sender, driver, flow) for flow in flows]
    assert [answer(sender, driver, flow) for flow in flows] == seen
    assert set(seen) == set(range(PAIRS))
    check_conservation(switch.finish())


def test_without_steering_a_worker_fills_one(supervisor):
    switch, sender, driver = connect(supervisor, "steering=worker")
    pairs = set()
    for number, flow in enumerate(FLOWS):
        ask(sender, driver, flow, number % PAIRS)
        pairs.add(answer(sender, driver, flow))
    assert len(pairs) == 1
    check_conservation(switch.finish())
