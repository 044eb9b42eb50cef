# SPDX-License-Identifier: Apache-2.0
"""A front end behind an IOMMU: the Python driver of frontend.py, whose device sees I/O virtual
addresses only and has to ask what they mean.

Pages of the first region, where the rings are, lie one after the other; those of all others are
scattered over their file, so that a buffer over two pages is two pieces for the device.
"""

from __future__ import annotations

import random
import select
import socket
import struct
from collections.abc import Sequence

from .frontend import (MRG_RXBUF, P_REPLY_ACK, VERSION, REPLY, NEED_REPLY, VERSION_1, Frontend,
                       Memory, Region)
from .process import HarnessError

ACCESS_PLATFORM, P_BACKEND_REQ = 33, 5
SET_BACKEND_REQ_FD, IOTLB_MSG, BACKEND_IOTLB_MSG = 21, 22, 1
MISS, UPDATE, INVALIDATE, ACCESS_FAIL = 1, 2, 3, 4
READ, WRITE = 1, 2
PAGE = 4096
_SHIFT = 0x40_0000_0000  # what the device calls an address, less what the driver calls it


class ScatteredMemory(Memory):
    """Memory whose pages, but for those of the first region, lie in their file in any order."""

    def __init__(self, sizes: Sequence[int], seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._place: dict[int, int] = {}  # page of the driver -> offset in its region's file
        super().__init__(sizes)
        for region in self.regions[1:]:
            offsets = list(range(0, region.size, PAGE))
            self._random.shuffle(offsets)
            # The last quarter is not used, for pages that move.
            keep = len(offsets) * 3 // 4
            region.spare = offsets[keep:]
            region.end = region.guest + keep * PAGE
            self._place.update(zip(range(region.guest, region.end, PAGE), offsets))

    def allocate(self, size: int, align: int = 16, region: int = 0) -> int:
        address = super().allocate(size, align, region)
        if address + size > getattr(self.regions[region], "end", address + size):
            raise HarnessError(f"guest memory region {region} is full")
        return address

    def find(self, guest: int) -> tuple[Region, int]:
        region, at = super().find(guest)
        page = guest & -PAGE
        return region, self._place[page] + guest % PAGE if page in self._place else at

    def _pieces(self, guest: int, length: int):
        while length > 0:
            n = min(length, PAGE - guest % PAGE)
            yield (*self.find(guest), n)
            guest, length = guest + n, length - n

    def write(self, guest: int, data: bytes) -> None:
        done = 0
        for region, at, n in self._pieces(guest, len(data)):
            region.map[at:at + n] = data[done:done + n]
            done += n

    def read(self, guest: int, length: int) -> bytes:
        return b"".join(r.map[at:at + n] for r, at, n in self._pieces(guest, length))

    def move(self, guest: int) -> tuple[Region, int]:
        """Gives a scattered page another place, with its content; where it was."""
        page = guest & -PAGE
        region, old = self.find(page)
        new = region.spare.pop(0)
        region.map[new:new + PAGE] = region.map[old:old + PAGE]
        self._place[page] = new
        region.spare.append(old)
        return region, old

    def scattered_pages(self) -> list[int]:
        return list(self._place)


class IommuFrontend(Frontend):
    """A virtio-net driver behind an IOMMU. Whoever waits for the device serves its misses, and
    nobody else: `serve()`."""

    def __init__(self, path: str, *, features: Sequence[int] = (VERSION_1, MRG_RXBUF),
                 regions: Sequence[int] = (1 << 20, 4 << 20), **options) -> None:
        super().__init__(path, features=(*features, ACCESS_PLATFORM), regions=[], **options)
        self.memory = ScatteredMemory(regions)
        self.known_protocol = (*self.known_protocol, P_BACKEND_REQ)
        self.channel: socket.socket | None = None
        self.silent = False               # misses are read and not answered
        self.refused: set[int] = set()    # pages that the device may not touch
        self.misses: list[tuple[int, int]] = []  # (driver's address, access) in order

    def negotiate(self) -> None:
        super().negotiate()
        if not self.features >> ACCESS_PLATFORM & 1:
            raise HarnessError("the back end does not offer to work behind an IOMMU")
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.tell(SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()

    def device_address(self, guest: int) -> int:
        return guest + _SHIFT

    def ring_address(self, guest: int) -> int:
        return guest + _SHIFT

    def start(self) -> None:
        super().start()
        self.serve()

    def close(self) -> None:
        if self.channel:
            self.channel.close()
        super().close()

    def iotlb(self, kind: int, iova: int, size: int, user: int = 0, access: int = 3) -> int:
        """Sends an IOTLB message; what the back end answers (0: done)."""
        return struct.unpack("<Q", self.ask(
            IOTLB_MSG, struct.pack("<QQQBB6x", iova, size, user, access, kind)))[0]

    def map_page(self, guest: int, access: int = 3) -> None:
        page = guest & -PAGE
        region, at = self.memory.find(page)
        if self.iotlb(UPDATE, page + _SHIFT, PAGE, region.user + at, access):
            raise HarnessError(f"the back end refused the mapping of {page:#x}")

    def unmap_page(self, guest: int) -> None:
        if self.iotlb(INVALIDATE, (guest & -PAGE) + _SHIFT, PAGE):
            raise HarnessError(f"the back end refused to forget {guest:#x}")

    def serve(self, timeout: float = 0) -> int:
        """Answers the misses that have come; how many."""
        served = 0
        while self.channel and select.select([self.channel], [], [], timeout)[0]:
            head = self.channel.recv(12, socket.MSG_WAITALL)
            if not head:
                self.channel.close()
                self.channel = None
                break
            request, flags, size = struct.unpack("<III", head)
            payload = self.channel.recv(size, socket.MSG_WAITALL)
            if request != BACKEND_IOTLB_MSG or size != 32 or flags & 7 != VERSION:
                raise HarnessError(f"the back end asks {request} with {size} bytes, flags {flags:#x}")
            iova, _, _, access, kind = struct.unpack("<QQQBB6x", payload)
            if kind != MISS or not access:
                raise HarnessError(f"the back end sends an IOTLB message of type {kind}")
            self.misses.append((iova - _SHIFT, access))
            served += 1
            timeout = 0
            if not self.silent:
                self._answer(iova - _SHIFT, flags)
        return served

    def _answer(self, guest: int, flags: int) -> None:
        verdict = 0
        if guest & -PAGE in self.refused:
            verdict = 1
        else:
            try:
                self.map_page(guest)
            except HarnessError:
                verdict = 1
        if flags & NEED_REPLY:
            self.channel.send(struct.pack("<IIIQ", BACKEND_IOTLB_MSG, VERSION | REPLY, 8, verdict))
