# SPDX-License-Identifier: Apache-2.0
"""Joining TCP segments: a sender that makes small ones meets a receiver that takes large ones. The
kernel gets few large packets, and when it cuts them again out come the bytes that were sent."""

import hashlib
import json
import os
import random
import select
import struct

import pytest

from support import frames
from support.frontend import (GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, MRG_RXBUF, VERSION_1, Frontend)
from support.pollux import PolluxSwitch, check_conservation
from support.process import wait_until
from support.station import Station

PLAIN = (VERSION_1, MRG_RXBUF)
TSO = (GUEST_CSUM, GUEST_TSO4, GUEST_TSO6)
DESTINATION, SOURCE = "52:54:00:00:00:02", "52:54:00:00:00:01"
ACK, PSH, FIN = 0x10, 8, 1

pytestmark = pytest.mark.usefixtures("pollux_path", "need_netns")


def stream(version, rng, size, count, last=None):
    """Segments of one connection, as a stack without offloads sends them; `last` bytes in the last."""
    addresses = [rng.randbytes(4 if version == 4 else 16) for _ in range(2)]
    ports, ack, ident = rng.randrange(1 << 32), rng.randrange(1 << 32), rng.randrange(65536)
    sequence, window = rng.randrange(1 << 32), rng.randrange(65536)
    options = struct.pack("!BBBBII", 1, 1, 8, 10, rng.randrange(1 << 32), rng.randrange(1 << 32))
    for number in range(count):
        ends = number == count - 1
        payload = rng.randbytes(last if ends and last else size)
        tcp = struct.pack("!IIIBBHHH", ports, sequence, ack, 8 << 4, ACK | PSH * ends | FIN * ends,
                          window, 0, 0) + options + payload
        sequence = (sequence + size) & 0xFFFFFFFF
        pseudo = b"".join(addresses) + struct.pack("!II", len(tcp), 6)
        total = ~frames.checksum(pseudo + tcp) & 0xFFFF
        tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
        if version == 4:
            packet = frames.ipv4(*addresses, 6, tcp, ident=(ident + number) & 0xFFFF)
        else:
            packet = struct.pack("!IHBB", 6 << 28 | 0x12345, len(tcp), 6, 64) + b"".join(
                addresses) + tcp
        yield frames.ethernet(DESTINATION, SOURCE, packet, 0x0800 if version == 4 else 0x86DD)


def mixed(rng, connections):
    """Several connections' segments at once, each in order."""
    waiting = [list(c) for c in connections]
    out = []
    while any(waiting):
        chosen = rng.choice([c for c in waiting if c])
        out.append(chosen.pop(0))
    return out


def gro(report):
    return tuple(sum(w[key] for w in report["workers"]) for key in ("gro_segments", "gro_packets"))


def link(station):
    return json.loads(station.netns.run("ip", "-s", "-j", "link", "show", station.tap))[0]


def connection(frame):
    return frame[26:38] if frame[12:14] == b"\x08\x00" else frame[22:58]


def by_connection(batch):
    found = {}
    for frame in batch:
        found.setdefault(connection(frame), []).append(frame)
    return found


@pytest.mark.parametrize("keys", ["", ",gro=off"], ids=["gro", "off"])
def test_kernel_cuts_the_same_segments(supervisor, keys):
    """Through the kernel's bridge to a tap without offloads, where its own segmentation undoes what
    was joined: to the last byte."""
    switch = PolluxSwitch(supervisor, ["s"])
    kernel = Station(supervisor, switch, "k", keys=keys)
    kernel.netns.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    kernel.netns.run("ip", "link", "set", "br0", "up")
    out, name = kernel.netns.open_tap(supervisor)
    for interface in (kernel.tap, name):
        kernel.netns.run("ip", "link", "set", interface, "master", "br0")
    wait_until(lambda: kernel.netns.run("bridge", "link").count("state forwarding") == 2, 20,
               "the bridge forwards")
    peer = supervisor.enter(Frontend(switch.socket("s"), features=PLAIN, regions=[4 << 20]))
    peer.start()
    switch.wait_attached("s")
    rng = random.Random(3)
    sent = 0
    for _ in range(40):
        batch = mixed(rng, [stream(rng.choice((4, 6)), rng, size := rng.randrange(100, 1429),
                                   rng.randrange(2, 9), rng.randrange(8, size + 1))
                            for _ in range(rng.randrange(1, 4))])
        peer.send_batch(batch, timeout=20)
        sent += len(batch)
        got = []
        while len(got) < len(batch):
            assert select.select([out], [], [], 20)[0], f"{len(got)} of {len(batch)} came"
            data = os.read(out, 70000)
            if data[16:22] == frames.mac(SOURCE):  # not the kernel's own talk
                assert data[1] == 0, "a large packet reached a tap that takes none"
                got.append(data[10:])
        assert by_connection(got) == by_connection(batch)
    segments, packets = gro(switch.stats())
    arrived = link(kernel)["stats64"]["rx"]["packets"]
    if keys:
        assert (segments, packets) == (0, 0) and arrived >= sent
    else:
        assert segments > sent / 2 > packets
        assert arrived <= sent - segments + packets
    check_conservation(switch.finish())


RECEIVE = """
import hashlib, socket, sys
server = socket.create_server((sys.argv[1], 2000), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
print('listening', flush=True)
peer, _ = server.accept()
digest = hashlib.sha256()
while data := peer.recv(1 << 20):
    digest.update(data)
print(digest.hexdigest(), flush=True)
"""
SEND = """
import socket, sys
peer = socket.create_connection((sys.argv[1], 2000))
with open(sys.argv[2], 'rb') as file:
    peer.sendfile(file)
"""


@pytest.mark.parametrize("version", [4, 6])
def test_kernel_without_offloads_sends_to_kernel(supervisor, tmp_path, version):
    """A file between two stacks, of which the sender's interface has no offloads: it arrives whole,
    in packets that are much larger than any that was sent."""
    switch = PolluxSwitch(supervisor)
    addresses = ["10.79.0.1", "10.79.0.2"] if version == 4 else ["fd79::1", "fd79::2"]
    prefix = 24 if version == 4 else 64
    sender = Station(supervisor, switch, "a", f"{addresses[0]}/{prefix}", keys=",offload=off")
    receiver = Station(supervisor, switch, "b", f"{addresses[1]}/{prefix}")
    content = random.Random(5).randbytes(30 << 20)
    (tmp_path / "file").write_bytes(content)
    sink = receiver.python(RECEIVE, addresses[1])
    assert sink.stdout.readline() == "listening\n"
    source = sender.python(SEND, addresses[1], str(tmp_path / "file"))
    assert sink.stdout.readline().strip() == hashlib.sha256(content).hexdigest()
    assert source.wait(20) == 0 and sink.wait(20) == 0
    got = link(receiver)["stats64"]["rx"]
    assert got["bytes"] >= len(content)
    assert got["bytes"] / got["packets"] > 2 * 1514, "the kernel got small packets"
    report = switch.finish()
    segments, packets = gro(report)
    assert segments > 2 * packets > 0
    check_conservation(report)


def test_driver_gets_a_large_packet(supervisor):
    """What the header of a joined packet says, VIRTIO 1.3, 5.1.6.4."""
    switch = PolluxSwitch(supervisor, ["s", "r"])
    sender = supervisor.enter(Frontend(switch.socket("s"), features=PLAIN))
    receiver = supervisor.enter(Frontend(switch.socket("r"), features=(*PLAIN, *TSO)))
    for end in (sender, receiver):
        end.start()
    switch.wait_attached("s", "r")
    batch = list(stream(4, random.Random(1), 1400, 5, last=100))
    sender.send_batch(batch)
    (header, frame), = receiver.receive_with_headers(1, timeout=20)
    flags, gso, length, size, start, offset = struct.unpack_from("<BBHHHH", header)
    assert (flags, gso, length, size, start, offset) == (1, 1, 66, 1400, 34, 16)
    assert frame[66:] == b"".join(f[66:] for f in batch)
    assert frame[16:18] == struct.pack("!H", len(frame) - 14)
    assert frames.checksum(frame[14:34]) == 0xFFFF
    assert frame[47] == ACK | PSH | FIN
    pseudo = frame[26:34] + struct.pack("!II", 6, len(frame) - 34)
    assert struct.unpack_from("!H", frame, 50)[0] == frames.checksum(pseudo)
    check_conservation(switch.finish())


def test_buffers_too_small_for_large_packets(supervisor):
    """A driver that agreed to large packets, but has no buffers for them: the first is lost, as the
    network may lose any, and then it gets what it can take."""
    switch = PolluxSwitch(supervisor, ["s", "r"])
    sender = supervisor.enter(Frontend(switch.socket("s"), features=PLAIN))
    receiver = supervisor.enter(Frontend(switch.socket("r"), features=(VERSION_1, *TSO)))
    for end in (sender, receiver):
        end.start()
    switch.wait_attached("s", "r")
    rng = random.Random(2)
    sender.send_batch(list(stream(6, rng, 1400, 5)))
    wait_until(lambda: switch.counters()["r"].dropped, 20, "a large packet is dropped")
    batch = list(stream(6, rng, 1400, 5))
    sender.send_batch(batch)
    assert receiver.receive(5, timeout=20) == batch
    report = switch.finish()
    assert gro(report) == (5, 1)
    check_conservation(report)
