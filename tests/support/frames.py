# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames and capture files as bytes, made by hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(destination: str, source: str, payload: bytes = b"", ethertype: int = 0x88B5,
             size: int = 0) -> bytes:
    """A frame without FCS, filled up with a pattern to `size` bytes.

    The default type is one that IEEE 802 sets aside for experiments: nobody answers it.
    """
    head = mac(destination) + mac(source) + struct.pack("!H", ethertype) + payload
    return head + pattern(len(payload), max(0, size - len(head)))


def pattern(seed: int, length: int) -> bytes:
    """`length` bytes that differ from one seed to the next, and along the way."""
    period = bytes((seed * 7 + i * 13 + (i >> 8)) & 0xFF for i in range(min(length, 4096)))
    return (period * (length // max(1, len(period)) + 1))[:length] if length else b""


def checksum(data: bytes, start: int = 0) -> int:
    """The Internet checksum's sum, folded, not inverted."""
    if len(data) % 2:
        data += b"\0"
    total = start + sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def udp4(destination: str, source: str, ip_source: str, ip_destination: str, payload: bytes,
         ports: tuple[int, int] = (1000, 2000), partial: bool = False) -> bytes:
    """UDP over IPv4. With `partial` the UDP checksum is the pseudo header's sum only, as a
    driver leaves it that hands the rest to the device."""
    a, b = socket.inet_aton(ip_source), socket.inet_aton(ip_destination)
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", *ports, length, 0) + payload
    total = checksum(a + b + struct.pack("!BBH", 0, 17, length))
    if not partial:
        total = ~checksum(udp, total) & 0xFFFF or 0xFFFF
    udp = udp[:6] + struct.pack("!H", total) + udp[8:]
    return ethernet(destination, source, ipv4(a, b, 17, udp), 0x0800)


def tcp4(destination: str, source: str, ip_source: str, ip_destination: str, payload: bytes,
         sequence: int = 1, flags: int = 0x10, partial: bool = False) -> bytes:
    """TCP over IPv4 without options; `partial` as in udp4()."""
    a, b = socket.inet_aton(ip_source), socket.inet_aton(ip_destination)
    tcp = struct.pack("!HHIIBBHHH", 1000, 2000, sequence, 7, 0x50, flags, 65535, 0, 0) + payload
    total = checksum(a + b + struct.pack("!BBH", 0, 6, len(tcp)))
    if not partial:
        total = ~checksum(tcp, total) & 0xFFFF
    tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
    return ethernet(destination, source, ipv4(a, b, 6, tcp), 0x0800)


def ipv4(source: bytes, destination: bytes, protocol: int, payload: bytes, ident: int = 1) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, 0x4000, 64, protocol,
                       0, source, destination)
    return head[:10] + struct.pack("!H", ~checksum(head) & 0xFFFF) + head[12:] + payload


def l4_checksum_valid(frame: bytes) -> bool:
    """Whether the TCP or UDP checksum of an IPv4 frame is complete and right."""
    ip = frame[14:]
    length = struct.unpack("!H", ip[2:4])[0]
    head = (ip[0] & 15) * 4
    l4 = ip[head:length]
    return checksum(ip[12:20] + struct.pack("!BBH", 0, ip[9], len(l4)) + l4) == 0xFFFF


def write_pcap(path: str | Path, frames: Iterable[bytes]) -> None:
    """A classic capture file, little-endian, microseconds, Ethernet."""
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for number, frame in enumerate(frames):
            file.write(struct.pack("<IIII", 1700000000 + number // 1000, number % 1000 * 1000,
                                   len(frame), len(frame)) + frame)


def read_pcap(path: str | Path) -> list[bytes]:
    """The frames of a classic capture file in either byte order."""
    data = Path(path).read_bytes()
    magic = data[:4]
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<",
             b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}[magic]
    frames, at = [], 24
    while at < len(data):
        _, _, captured, original = struct.unpack_from(order + "IIII", data, at)
        assert captured == original, "a frame was cut short"
        frames.append(data[at + 16:at + 16 + captured])
        at += 16 + captured
    return frames


def write_pcapng(path: str | Path, frames: Iterable[bytes]) -> None:
    """A pcapng file of one section and one interface."""
    def block(kind: int, body: bytes) -> bytes:
        body += b"\0" * (-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)
    with open(path, "wb") as file:
        file.write(block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
        file.write(block(1, struct.pack("<HHI", 1, 0, 0)))
        for number, frame in enumerate(frames):
            file.write(block(6, struct.pack("<IIIII", 0, 0, number, len(frame), len(frame))
                             + frame))
