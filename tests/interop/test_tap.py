# SPDX-License-Identifier: Apache-2.0
"""Tap ports with the kernel's stack behind them, in network namespaces: its checksum and
segmentation offloads meet peers that know them and peers that do not."""

import signal
import socket
import struct

import pytest

from support import frames
from support.frontend import (CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, VERSION_1,
                              Frontend)
from support.pollux import PolluxSwitch, check_conservation
from support.process import wait_until
from support.station import Station

KERNEL_IP, PEER_IP = "10.78.0.1", "10.78.0.2"
PEER_MAC = "02:00:00:00:00:c2"
PLAIN = (VERSION_1, MRG_RXBUF)
FULL = (VERSION_1, MRG_RXBUF, CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4)
NEEDS_CSUM, DATA_VALID = 1, 2  # flags of the virtio-net header

pytestmark = pytest.mark.usefixtures("pollux_path", "need_netns")


def test_two_namespaces(supervisor):
    """Ping, fragments, and a TCP transfer both ways between two taps."""
    switch = PolluxSwitch(supervisor)
    a = Station(supervisor, switch, "a", "10.78.0.1/24", "fd78::1/64")
    b = Station(supervisor, switch, "b", "10.78.0.2/24", "fd78::2/64")
    for target, size in (("10.78.0.2", 56), ("fd78::2", 1400), ("10.78.0.2", 20000)):
        text = a.netns.run("ping", "-q", "-n", "-i", "0.01", "-c", "50", "-W", "5",
                           "-s", str(size), target)
        assert " 0% packet loss" in text, text
    server = supervisor.start(b.netns.command("iperf3", "-s", "-1", "--forceflush"))
    server.wait_for("Server listening", 10)
    text = a.netns.run("iperf3", "-c", "10.78.0.2", "-n", "50M", "--bidir", timeout=60)
    assert "iperf Done" in text
    # The kernel handed over frames that only a stack with offloads makes.
    assert "'gso_" not in text
    check_conservation(switch.finish())


def test_taken_over_between_two_namespaces(supervisor):
    """Another process takes the switch over, three times, while echoes and a TCP transfer go on: the
    interfaces stay where they are, and not one echo is lost."""
    switch = PolluxSwitch(supervisor)
    a = Station(supervisor, switch, "a", "10.78.0.1/24")
    b = Station(supervisor, switch, "b", "10.78.0.2/24")
    server = supervisor.start(b.netns.command("iperf3", "-s", "-1", "--forceflush"))
    server.wait_for("Server listening", 10)
    ping = supervisor.start(a.netns.command("ping", "-q", "-n", "-i", "0.01", "-w", "60", "-W", "20",
                                            "10.78.0.2"))
    transfer = supervisor.start(a.netns.command("iperf3", "-c", "10.78.0.2", "-n", "200M"))
    for _ in range(3):
        before = switch.counters()["a"].rx_packets
        wait_until(lambda: switch.counters()["a"].rx_packets > before + 100, 30, "traffic flows")
        switch.take_over()
    assert transfer.wait(120) == 0 and "iperf Done" in transfer.output
    ping.send_signal(signal.SIGINT)
    ping.wait(30)
    assert " 0% packet loss" in ping.output, ping.output
    check_conservation(switch.finish())


@pytest.fixture(params=[PLAIN, FULL], ids=["peer-without-offloads", "peer-with-offloads"])
def pair(request, supervisor):
    """(switch, kernel's station, Python front end that it knows)."""
    switch = PolluxSwitch(supervisor, ["p"])
    kernel = Station(supervisor, switch, "k", f"{KERNEL_IP}/24")
    kernel.knows(PEER_IP, PEER_MAC)
    peer = supervisor.enter(Frontend(switch.socket("p"), features=request.param,
                                     regions=[16 << 20]))
    peer.start()
    switch.wait_attached("p")
    # Where the peer is must be known, and the kernel must have found out its own things.
    peer.send(frames.ethernet(kernel.mac, PEER_MAC, size=60))
    return switch, kernel, peer


def ip_frames(peer, protocol):
    """(header, frame) of what has come in of one IPv4 protocol."""
    return [(h, f) for h, f in peer.poll_with_headers()
            if f[12:14] == b"\x08\x00" and f[23] == protocol]


def test_kernel_sends_udp(pair):
    """A datagram whose checksum the kernel left to the card arrives with a right one, or with
    what the peer needs to make it, if it agreed to that."""
    switch, kernel, peer = pair
    program = kernel.python("import socket,sys\n"
                            "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
                            f"for n in range(50): s.sendto(b'x'*(20*n), ('{PEER_IP}', 2000))")
    assert program.wait(20) == 0
    got = []
    wait_until(lambda: got.extend(ip_frames(peer, 17)) or len(got) >= 50, 10,
               "50 datagrams arrive", 0.001)
    for header, frame in got:
        flags, _, _, _, start, offset = struct.unpack_from("<BBHHHH", header)
        if flags & NEEDS_CSUM:
            assert peer.features >> GUEST_CSUM & 1, "the peer never agreed to this"
            assert (start, offset) == (34, 6)
        else:
            assert frames.l4_checksum_valid(frame)
    assert sorted(len(f) for _, f in got) == sorted(max(42 + 20 * n, 42) for n in range(50))


def test_peer_sends_udp(pair):
    """Partial checksums from a peer that may leave them, complete ones else: the kernel takes
    every datagram."""
    switch, kernel, peer = pair
    program = kernel.python(
        "import socket\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(20)\n"
        f"s.bind(('{KERNEL_IP}',2000)); print('bound', flush=True)\n"
        "print(sum(len(s.recv(2000)) for n in range(50)), flush=True)")
    assert program.stdout.readline() == "bound\n"
    partial = bool(peer.features >> CSUM & 1)
    header = struct.pack("<BBHHHH", NEEDS_CSUM if partial else 0, 0, 0, 0, 34 if partial else 0,
                         6 if partial else 0)
    for n in range(50):
        peer.send(frames.udp4(kernel.mac, PEER_MAC, PEER_IP, KERNEL_IP, frames.pattern(n, 20 * n),
                              partial=partial), header=header)
    assert program.stdout.readline() == f"{sum(20 * n for n in range(50))}\n"
    assert program.wait(10) == 0


class TcpSink:
    """Just enough of a TCP server to take one stream from the kernel: accepts, acknowledges."""

    def __init__(self, peer, kernel_mac):
        self.peer, self.kernel_mac = peer, kernel_mac
        self.expected = None
        self.data = bytearray()
        self.finished = False
        self.largest = 0
        self.gso_types = set()

    def pump(self):
        """Handles what has come in; True once the stream has ended."""
        acknowledge = False
        for header, frame in ip_frames(self.peer, 6):
            self.check(header, frame)
            ip = frame[14:]
            total = struct.unpack_from("!H", ip, 2)[0]
            tcp = ip[20:total]
            sequence, = struct.unpack_from("!I", tcp, 4)
            payload, flags = tcp[(tcp[12] >> 4) * 4:], tcp[13]
            if flags & 2:  # SYN
                self.expected = (sequence + 1) & 0xFFFFFFFF
                self.answer(tcp, 0x12, struct.pack("!BBH", 2, 4, 1460))
            elif sequence == self.expected:
                self.data += payload
                self.expected = (self.expected + len(payload) + (flags & 1)) & 0xFFFFFFFF
                self.finished |= bool(flags & 1)
                acknowledge = tcp
        if acknowledge:
            self.answer(acknowledge, 0x10)
        return self.finished

    def check(self, header, frame):
        flags, gso, _, gso_size, start, offset = struct.unpack_from("<BBHHHH", header)
        self.largest = max(self.largest, len(frame))
        self.gso_types.add(gso)
        if flags & NEEDS_CSUM:
            assert self.peer.features >> GUEST_CSUM & 1
            assert (start, offset) == (34, 16)
        else:
            assert frames.l4_checksum_valid(frame), "a wrong TCP checksum"
        if gso:
            assert self.peer.features >> GUEST_TSO4 & 1 and gso & 0x7F == 1
            assert 0 < gso_size <= 1460 and flags & NEEDS_CSUM
        else:
            assert len(frame) <= 1514, "longer than the MTU allows"

    def answer(self, tcp, flags, options=b""):
        source, destination = struct.unpack_from("!HH", tcp)
        a, b = socket.inet_aton(PEER_IP), socket.inet_aton(KERNEL_IP)
        head = struct.pack("!HHIIBBHHH", destination, source, 1 if flags & 2 == 0 else 0,
                           self.expected, (20 + len(options)) // 4 << 4, flags, 65535, 0, 0)
        segment = head + options
        total = ~frames.checksum(segment, frames.checksum(
            a + b + struct.pack("!BBH", 0, 6, len(segment)))) & 0xFFFF
        segment = segment[:16] + struct.pack("!H", total) + segment[18:]
        self.peer.send(frames.ethernet(self.kernel_mac, PEER_MAC, frames.ipv4(a, b, 6, segment),
                                       0x0800))


def test_kernel_sends_tcp(pair):
    """The kernel's large segments are cut and their checksums made for a peer without offloads,
    and reach the other whole. The stream is the same."""
    switch, kernel, peer = pair
    count = 400_000
    program = kernel.python(
        "import socket,sys\n"
        f"s=socket.create_connection(('{PEER_IP}', 2000))\n"
        f"s.sendall(bytes(range(251))*({count}//251)); s.shutdown(socket.SHUT_WR); s.recv(1)")
    sink = TcpSink(peer, kernel.mac)
    try:
        wait_until(sink.pump, 30, "the stream ends", 0.0005)
    finally:
        program.kill()
        program.wait()
    assert bytes(sink.data) == bytes(range(251)) * (count // 251)
    if peer.features >> GUEST_TSO4 & 1:
        assert sink.largest > 1514, "no segment arrived whole"
    else:
        assert sink.gso_types == {0}
        report = switch.stats()
        assert sum(w["gso_packets"] for w in report["workers"]) > 0, "nothing was segmented"


@pytest.mark.parametrize("pair", [FULL], indirect=True, ids=["peer-with-offloads"])
def test_peer_sends_a_large_segment(pair):
    """One frame of 20 segments from a peer that agreed to TSO: the kernel gets its bytes."""
    switch, kernel, peer = pair
    assert peer.features >> HOST_TSO4 & 1
    capture = kernel.python(
        "import socket\n"
        f"s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(0x800)); "
        f"s.bind(('{kernel.tap}',0)); s.settimeout(20); print('bound', flush=True)\n"
        "n=0\n"
        "while n<29200:\n"
        "  f=s.recv(70000)\n"
        "  if f[23]==6 and f[26:30]==socket.inet_aton('10.78.0.2'):\n"
        "    total=int.from_bytes(f[16:18],'big'); n+=total-40\n"
        "print(n, flush=True)")
    assert capture.stdout.readline() == "bound\n"
    payload = frames.pattern(3, 29200)
    header = struct.pack("<BBHHHH", NEEDS_CSUM, 1, 54, 1460, 34, 16)
    peer.send(frames.tcp4(kernel.mac, PEER_MAC, PEER_IP, KERNEL_IP, payload, partial=True),
              header=header)
    assert capture.stdout.readline() == "29200\n"
    assert capture.wait(10) == 0
