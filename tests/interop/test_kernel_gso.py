# SPDX-License-Identifier: Apache-2.0
"""Checksums and segmentation between ports that differ, compared with Linux's own: whatever a
sender leaves undone goes through the switch to a receiver that agreed to less, and through a bridge
between two taps in a network namespace. Both must come out the same, to the last byte."""

import fcntl
import os
import random
import select
import struct
from dataclasses import dataclass

import pytest

from support import frames
from support.frontend import (CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6,
                              MRG_RXBUF, VERSION_1, Frontend)
from support.pollux import PolluxSwitch, check_conservation
from support.process import HarnessError
from support.system import Netns

GUEST_ECN, GUEST_UFO, HOST_ECN, HOST_UFO = 9, 10, 13, 14
GUEST_USO4, GUEST_USO6, HOST_USO = 54, 55, 56
SENDER = (VERSION_1, MRG_RXBUF, CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_UFO, HOST_USO)
TSO = (GUEST_CSUM, GUEST_TSO4, GUEST_TSO6)
RECEIVERS = {
    "nothing": (),
    "csum": (GUEST_CSUM,),
    "tso4": (GUEST_CSUM, GUEST_TSO4),
    "tso": TSO,
    "tso-ecn": (*TSO, GUEST_ECN),
    "ufo": (GUEST_CSUM, GUEST_UFO),
    "uso": (GUEST_CSUM, GUEST_USO4, GUEST_USO6),
    "everything": (*TSO, GUEST_ECN, GUEST_UFO, GUEST_USO4, GUEST_USO6),
}
DESTINATION, SOURCE = "52:54:00:00:00:02", "52:54:00:00:00:01"
NEEDS_CSUM = 1
GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 3, 4, 5, 0x80
ROUNDS = 12  # of each kind, for each receiver

pytestmark = pytest.mark.usefixtures("pollux_path", "need_netns")


@dataclass
class Sample:
    """A frame as a driver with all offloads sends it."""
    kind: str
    frame: bytes
    gso_type: int
    gso_size: int
    l4: int
    field: int
    payload: int  # bytes that are divided
    needs: tuple  # what a receiver must have agreed to, to get it whole

    @property
    def header(self):
        headers = len(self.frame) - self.payload
        return struct.pack("<BBHHHH", NEEDS_CSUM, self.gso_type, headers if self.gso_type else 0,
                           self.gso_size, self.l4, self.field)

    def pieces(self, whole):
        return 1 if whole or not self.gso_type else -(-self.payload // self.gso_size)


def ip_packet(version, protocol, l4, field, rng):
    """(frame, offset of the transport header): addresses and all else drawn, and the pseudo
    header's sum in the checksum field at `field`."""
    size = 4 if version == 4 else 16
    source, destination = rng.randbytes(size), rng.randbytes(size)
    pseudo = frames.checksum(source + destination + struct.pack("!II", len(l4), protocol))
    l4 = l4[:field] + struct.pack("!H", pseudo) + l4[field + 2:]
    if version == 4:
        packet = frames.ipv4(source, destination, protocol, l4, ident=rng.randrange(65536))
    else:
        packet = struct.pack("!IHBB", 6 << 28 | rng.randrange(1 << 28), len(l4), protocol,
                             64) + source + destination + l4
    kind = 0x0800 if version == 4 else 0x86DD
    return frames.ethernet(DESTINATION, SOURCE, packet, kind), 14 + len(packet) - len(l4)


def tcp(version, rng, ecn=False):
    options = b"\x01" * (4 * rng.randrange(11))
    flags = rng.choice((0x10, 0x18, 0x11, 0x19)) | (0x80 if ecn else 0)
    size = rng.randrange(200, 1449)
    # Linux counts options as payload when it asks whether one segment is enough.
    payload = rng.randbytes(rng.randrange(size + 41, 60000 if rng.random() < 0.3 else 9000))
    l4 = struct.pack("!HHIIBBHHH", 1000, 2000, rng.randrange(1 << 32), 7,
                     (20 + len(options)) << 2, flags, 65535, 0, 0) + options + payload
    frame, at = ip_packet(version, 6, l4, 16, rng)
    gso = (GSO_TCPV4 if version == 4 else GSO_TCPV6) | (GSO_ECN if ecn else 0)
    needs = (GUEST_CSUM, GUEST_TSO4 if version == 4 else GUEST_TSO6, *((GUEST_ECN,) if ecn else ()))
    return Sample(f"tcp{version}{'-ecn' * ecn}", frame, gso, size, at, 16, len(payload), needs)


def datagram(version, payload, rng):
    return ip_packet(version, 17, struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload,
                     6, rng)


def uso(version, rng):
    payload = rng.randbytes(rng.randrange(1500, 60000 if rng.random() < 0.3 else 9000))
    size = rng.randrange(len(payload) // 60 + 8, 1473)  # Linux makes at most 64 of one
    frame, at = datagram(version, payload, rng)
    return Sample(f"uso{version}", frame, GSO_UDP_L4, size, at, 6, len(payload),
                  (GUEST_CSUM, GUEST_USO4 if version == 4 else GUEST_USO6))


def ufo(version, rng):
    payload = rng.randbytes(rng.randrange(1500, 60000 if rng.random() < 0.3 else 9000))
    size = rng.randrange(200, 1473) & ~7
    frame, at = datagram(version, payload, rng)
    return Sample(f"ufo{version}", frame, GSO_UDP, size, at, 6, 8 + len(payload),
                  (GUEST_CSUM, GUEST_UFO))


def unsummed(version, rng):
    if rng.random() < 0.5:
        frame, at = datagram(version, rng.randbytes(rng.randrange(0, 1440)), rng)
        return Sample(f"udp{version}", frame, 0, 0, at, 6, 0, (GUEST_CSUM,))
    l4 = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x10, 5, 0, 0) + rng.randbytes(
        rng.randrange(0, 1400))
    frame, at = ip_packet(version, 6, l4, 16, rng)
    return Sample(f"tcp{version}-one", frame, 0, 0, at, 16, 0, (GUEST_CSUM,))


def samples(seed):
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        for version in (4, 6):
            yield tcp(version, rng)
            yield tcp(version, rng, ecn=True)
            yield uso(version, rng)
            yield ufo(version, rng)
            yield unsummed(version, rng)


class KernelBridge:
    """A tap that takes everything undone, a bridge, and a tap that takes what it is told to."""

    def __init__(self, supervisor, csum):
        netns = Netns(supervisor)
        netns.run("ip", "link", "add", "br0", "type", "bridge")
        netns.run("ip", "link", "set", "br0", "up")
        self.into, self.out = (self._tap(supervisor, netns) for _ in range(2))
        fcntl.ioctl(self.out, Netns.TUNSETOFFLOAD, Netns.TUN_F_CSUM if csum else 0)

    def _tap(self, supervisor, netns):
        fd, name = netns.open_tap(supervisor)
        netns.run("ip", "link", "set", name, "master", "br0")
        return fd

    def carry(self, sample):
        """(header, frame) of all that becomes of it."""
        try:
            os.write(self.into, sample.header + sample.frame)
        except OSError as error:
            pytest.skip(f"this kernel does not take {sample.kind}: {error}")
        made = []
        while len(made) < sample.pieces(False):
            if not select.select([self.out], [], [], 20)[0]:
                raise HarnessError(f"the kernel made {len(made)} of {sample.kind}")
            data = os.read(self.out, 70000)
            if data[16:22] == frames.mac(SOURCE):  # not the kernel's own talk
                made.append((data[:10], data[10:]))
        return made


def undone(header):
    """What a header leaves to the receiver: flags, GSO type and size, where the sum begins and
    goes. hdr_len is a hint; that a checksum is known to be right is no work."""
    flags, gso, _, size, start, offset = struct.unpack_from("<BBHHHH", header)
    return (flags & NEEDS_CSUM, gso, size, *((start, offset) if flags & NEEDS_CSUM else ()))


def without_identification(frame):
    """Linux draws the identification of IPv6 fragments, the switch has it from the content."""
    fragment = frame[12:14] == b"\x86\xdd" and frame[20] == 44
    return frame[:58] + bytes(4) + frame[62:] if fragment else frame


@pytest.mark.parametrize("name", RECEIVERS)
def test_like_the_kernel(supervisor, name):
    agreed = RECEIVERS[name]
    kernel = KernelBridge(supervisor, GUEST_CSUM in agreed)
    switch = PolluxSwitch(supervisor, ["s", "r"])
    sender = supervisor.enter(Frontend(switch.socket("s"), features=SENDER, regions=[4 << 20]))
    receiver = supervisor.enter(Frontend(switch.socket("r"),
                                         features=(VERSION_1, MRG_RXBUF, *agreed),
                                         queue_size=1024))
    for end in (sender, receiver):
        end.start()
    switch.wait_attached("s", "r")
    assert sender.features >> HOST_USO & 1 and sender.features >> HOST_UFO & 1
    for number, sample in enumerate(samples(name)):
        whole = set(sample.needs) <= set(agreed)
        expected = [(sample.header, sample.frame)] if whole else kernel.carry(sample)
        sender.send(sample.frame, header=sample.header, timeout=20)
        got = receiver.receive_with_headers(sample.pieces(whole), timeout=20)
        assert len(got) == len(expected)
        for piece, ((our_header, ours), (header, theirs)) in enumerate(zip(got, expected)):
            where = f"sample {number}, {sample.kind}, piece {piece} of {len(expected)}"
            assert without_identification(ours) == without_identification(theirs), where
            assert undone(our_header) == undone(header), where
    identifications_agree(sender, receiver)
    check_conservation(switch.finish())


def identifications_agree(sender, receiver):
    """All fragments of one datagram have one identification, those of another another."""
    if receiver.features >> GUEST_UFO & 1:
        return
    seen = set()
    for seed in range(5):
        sample = ufo(6, random.Random(seed))
        sender.send(sample.frame, header=sample.header, timeout=20)
        got = receiver.receive(sample.pieces(False), timeout=20)
        own = {frame[58:62] for frame in got}
        assert len(own) == 1
        seen |= own
    assert len(seen) == 5
