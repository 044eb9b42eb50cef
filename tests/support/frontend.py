# SPDX-License-Identifier: Apache-2.0
"""The driver side of vhost-user in Python: small and slow, but another pair of eyes.

Written from the vhost-user text and VIRTIO 1.3 (split virtqueues, section 2.7; network device,
5.1). Its stores reach the ring in program order on x86-64, whose stores are not reordered: it is
not for machines with a weaker memory model, nor for those with the other byte order.

    with Frontend(path) as f:
        f.start()                      # negotiate, share memory, one queue pair
        f.send(frame)
        f.receive(1, timeout=5)
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .process import HarnessError, wait_until

# Requests of the front end.
GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM = 15, 16, 17
SET_VRING_ENABLE, SEND_RARP, NET_SET_MTU = 18, 19, 20
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG = 36, 37, 38

# Bits of the header's flags.
VERSION, REPLY, NEED_REPLY = 1, 1 << 2, 1 << 3

# Feature bits by number.
CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6 = 0, 1, 7, 8, 11, 12
MRG_RXBUF, MQ, INDIRECT_DESC, EVENT_IDX, PROTOCOL_FEATURES, VERSION_1 = 15, 22, 28, 29, 30, 32
P_MQ, P_RARP, P_REPLY_ACK, P_MTU, P_CONFIGURE_MEM_SLOTS = 0, 2, 3, 4, 15

# Flags of descriptors.
NEXT, WRITE, INDIRECT = 1, 2, 4

_GUEST_BASE = 0x1_0000_0000       # deliberately different from each other and from ours,
_USER_BASE = 0x7000_0000_0000     # so that a mix-up of address spaces does not go unseen


@dataclass
class Region:
    """A memfd, mapped here and described to the back end."""
    fd: int
    map: mmap.mmap
    guest: int
    user: int
    size: int
    offset: int = 0
    top: int = 0  # bytes given out

    def describe(self) -> bytes:
        return struct.pack("<QQQQ", self.guest, self.size, self.user, self.offset)


class Memory:
    """Regions of guest memory, with gaps between them, and a bump allocator over each."""

    def __init__(self, sizes: Sequence[int], adjacent: bool = False) -> None:
        self.regions: list[Region] = []
        self._next_guest = _GUEST_BASE
        self._adjacent = adjacent
        for size in sizes:
            self.add(size)

    def add(self, size: int) -> Region:
        fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        guest = self._next_guest
        region = Region(fd, mmap.mmap(fd, size), guest, _USER_BASE + guest * 2, size)
        self._next_guest += size if self._adjacent else size * 2
        self.regions.append(region)
        return region

    def allocate(self, size: int, align: int = 16, region: int = 0) -> int:
        """A guest address."""
        r = self.regions[region]
        at = -(-r.top // align) * align
        if at + size > r.size:
            raise HarnessError(f"guest memory region {region} is full")
        r.top = at + size
        return r.guest + at

    def find(self, guest: int) -> tuple[Region, int]:
        for region in self.regions:
            if region.guest <= guest < region.guest + region.size:
                return region, guest - region.guest
        raise HarnessError(f"{guest:#x} is not guest memory")

    def user(self, guest: int) -> int:
        region, at = self.find(guest)
        return region.user + at

    def write(self, guest: int, data: bytes) -> None:
        while data:  # over the seam of two adjacent regions if need be
            region, at = self.find(guest)
            n = min(len(data), region.size - at)
            region.map[at:at + n] = data[:n]
            guest, data = guest + n, data[n:]

    def read(self, guest: int, length: int) -> bytes:
        parts = []
        while length > 0:
            region, at = self.find(guest)
            n = min(length, region.size - at)
            parts.append(region.map[at:at + n])
            guest, length = guest + n, length - n
        return b"".join(parts)

    def close(self) -> None:
        for region in self.regions:
            region.map.close()
            os.close(region.fd)
        self.regions.clear()


class SplitQueue:
    """The driver's end of one split virtqueue."""

    def __init__(self, memory: Memory, size: int, region: int = 0,
                 device_address: Callable[[int], int] = lambda guest: guest) -> None:
        """`device_address` is what the device calls a guest address."""
        self.memory, self.size = memory, size
        self.device_address = device_address
        self.desc = memory.allocate(16 * size, 4096, region)
        self.avail = memory.allocate(6 + 2 * size, 2, region)
        self.used = memory.allocate(6 + 8 * size, 4096, region)
        self._map = memory.find(self.desc)[0].map
        base = memory.find(self.desc)[0].guest
        self._desc, self._avail, self._used = (a - base for a in
                                               (self.desc, self.avail, self.used))
        self._map[self._desc:self._desc + 16 * size] = bytes(16 * size)
        self._map[self._avail:self._avail + 6 + 2 * size] = bytes(6 + 2 * size)
        self._map[self._used:self._used + 6 + 8 * size] = bytes(6 + 8 * size)
        # One store of two bytes: struct.pack_into() would show the device a zero in between.
        self._avail_idx = ctypes.c_uint16.from_buffer(self._map, self._avail + 2)
        self.free = deque(range(size))
        self.chains: dict[int, tuple[list[int], object]] = {}
        self.next_avail = self.last_used = 0
        self.kick = self.call = self.err = -1

    def open_events(self) -> None:
        self.kick, self.call, self.err = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                                          for _ in range(3))

    def close(self) -> None:
        del self._avail_idx  # a mapping with pointers into it can not be closed
        for fd in (self.kick, self.call, self.err):
            if fd >= 0:
                os.close(fd)
        self.kick = self.call = self.err = -1

    def add(self, buffers: Sequence[tuple[int, int, bool]], token: object,
            indirect_table: int = 0) -> bool:
        """Makes a chain of (guest address, length, device writes) available; False if full."""
        need = 1 if indirect_table else len(buffers)
        if len(self.free) < need:
            return False
        if indirect_table:
            head = self.free.popleft()
            table = b"".join(
                struct.pack("<QIHH", self.device_address(a), n, (WRITE if w else 0) | (NEXT if i + 1 < len(buffers) else 0),
                            i + 1 if i + 1 < len(buffers) else 0)
                for i, (a, n, w) in enumerate(buffers))
            self.memory.write(indirect_table, table)
            self._put(head, indirect_table, len(table), INDIRECT, 0)
            ids = [head]
        else:
            ids = [self.free.popleft() for _ in buffers]
            for i, (a, n, w) in enumerate(buffers):
                more = i + 1 < len(ids)
                self._put(ids[i], a, n, (WRITE if w else 0) | (NEXT if more else 0),
                          ids[i + 1] if more else 0)
        self.chains[ids[0]] = (ids, token)
        struct.pack_into("<H", self._map, self._avail + 4 + 2 * (self.next_avail % self.size),
                         ids[0])
        self.next_avail = (self.next_avail + 1) & 0xFFFF
        return True

    def _put(self, index: int, address: int, length: int, flags: int, following: int) -> None:
        struct.pack_into("<QIHH", self._map, self._desc + 16 * index, self.device_address(address),
                         length, flags, following)

    def publish(self) -> None:
        """Shows the device what was added, and kicks it unless it asked not to be."""
        self._avail_idx.value = self.next_avail
        no_notify = struct.unpack_from("<H", self._map, self._used)[0] & 1
        if self.kick >= 0 and not no_notify:
            os.eventfd_write(self.kick, 1)

    def take_used(self) -> list[tuple[object, int]]:
        """(token, length) of each chain that the device has returned since."""
        end = struct.unpack_from("<H", self._map, self._used + 2)[0]
        done = []
        while self.last_used != end:
            at = self._used + 4 + 8 * (self.last_used % self.size)
            head, length = struct.unpack_from("<II", self._map, at)
            if head not in self.chains:
                raise HarnessError(f"the device returned chain {head}, which it does not have")
            ids, token = self.chains.pop(head)
            self.free.extend(ids)
            done.append((token, length))
            self.last_used = (self.last_used + 1) & 0xFFFF
        return done


class Frontend:
    """A virtio-net driver on a vhost-user socket."""

    def __init__(self, path: str, *, features: Sequence[int] = (VERSION_1, MRG_RXBUF,
                                                                INDIRECT_DESC),
                 pairs: int = 1, queue_size: int = 256, buffer_size: int = 2048,
                 regions: Sequence[int] = (4 << 20,), adjacent: bool = False,
                 slots: bool = False, timeout: float = 10) -> None:
        """`regions` are sizes; `slots` sends them one by one with ADD_MEM_REG."""
        self.path, self.wanted = path, sum(1 << bit for bit in features)
        self.pairs, self.queue_size, self.buffer_size = pairs, queue_size, buffer_size
        self.slots = slots
        self.memory = Memory(regions, adjacent)
        self.features = self.protocol = 0
        self.known_protocol: Sequence[int] = (P_MQ, P_REPLY_ACK, P_RARP, P_MTU,
                                              P_CONFIGURE_MEM_SLOTS)
        self.queues: list[SplitQueue] = []
        self._partial: list[list[bytes]] = [[] for _ in range(pairs)]
        self._expect = [0] * pairs
        self._reads: deque[tuple[bytes, bytes]] = deque()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(path)

    def __enter__(self) -> Frontend:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Messages.

    def message(self, request: int, payload: bytes = b"", fds: Sequence[int] = (),
                flags: int = 0) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([struct.pack("<III", request, VERSION | flags, len(payload)) + payload],
                          ancillary)

    def reply(self, request: int) -> bytes:
        head = self._exactly(12)
        got, flags, size = struct.unpack("<III", head)
        payload = self._exactly(size)
        if got != request or flags & 7 != VERSION | REPLY:
            raise HarnessError(f"asked {request}, got a reply to {got} with flags {flags:#x}")
        return payload

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            if not chunk:
                raise HarnessError(f"the back end on {self.path} closed the connection")
            data += chunk
        return data

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        self.message(request, payload)
        return self.reply(request)

    def ask_u64(self, request: int) -> int:
        return struct.unpack("<Q", self.ask(request))[0]

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Sends a request that has no reply of its own; waits for its acknowledgement, if
        negotiated. Raises if the back end refuses."""
        if self.protocol >> P_REPLY_ACK & 1:
            self.message(request, payload, fds, NEED_REPLY)
            status = struct.unpack("<Q", self.reply(request))[0]
            if status:
                raise HarnessError(f"the back end refused request {request}: {status}")
        else:
            self.message(request, payload, fds)

    # The life of a connection.

    def start(self) -> None:
        """Everything from the first message to a running device."""
        self.negotiate()
        self.share_memory()
        self.start_queues()
        self.enable()

    def negotiate(self) -> None:
        offered = self.ask_u64(GET_FEATURES)
        self.features = offered & (self.wanted | 1 << PROTOCOL_FEATURES)
        if self.pairs > 1:
            self.features |= offered & 1 << MQ
        if self.features >> PROTOCOL_FEATURES & 1:
            known = sum(1 << bit for bit in self.known_protocol)
            protocol = self.ask_u64(GET_PROTOCOL_FEATURES) & known
            self.message(SET_PROTOCOL_FEATURES, struct.pack("<Q", protocol))
            self.protocol = protocol
            if protocol >> P_MQ & 1:
                most = self.ask_u64(GET_QUEUE_NUM)
                if most < 2 * self.pairs and most < self.pairs:
                    raise HarnessError(f"{self.pairs} queue pairs wanted, {most} queues offered")
        self.tell(SET_OWNER)
        self.tell(SET_FEATURES, struct.pack("<Q", self.features))

    @property
    def header_size(self) -> int:
        return 12 if self.features & (1 << VERSION_1 | 1 << MRG_RXBUF) else 10

    def share_memory(self) -> None:
        regions = self.memory.regions
        if self.slots:
            if not self.protocol >> P_CONFIGURE_MEM_SLOTS & 1:
                raise HarnessError("the back end does not know CONFIGURE_MEM_SLOTS")
            most = self.ask_u64(GET_MAX_MEM_SLOTS)
            if most < len(regions):
                raise HarnessError(f"{len(regions)} regions wanted, {most} slots offered")
            for region in regions:
                self.add_region(region)
        else:
            table = struct.pack("<II", len(regions), 0) + b"".join(r.describe() for r in regions)
            self.tell(SET_MEM_TABLE, table, [r.fd for r in regions])

    def add_region(self, region: Region) -> None:
        self.tell(ADD_MEM_REG, struct.pack("<Q", 0) + region.describe(), [region.fd])

    def remove_region(self, region: Region) -> None:
        self.tell(REM_MEM_REG, struct.pack("<Q", 0) + region.describe())

    def start_queues(self) -> None:
        """Rings with receive buffers in them, in pairs of rx (even) and tx (odd)."""
        for index in range(2 * self.pairs):
            queue = SplitQueue(self.memory, self.queue_size, device_address=self.device_address)
            queue.open_events()
            self.queues.append(queue)
            if index % 2 == 0:
                self._post_buffers(queue)
            self.start_queue(index)
        self._tx_tables = [self.memory.allocate(16 * 64, 16) for _ in range(4)]
        self._plan_tx_buffers()

    def start_queue(self, index: int, base: int = 0) -> None:
        queue, user = self.queues[index], self.ring_address
        self.tell(SET_VRING_NUM, struct.pack("<II", index, queue.size))
        self.tell(SET_VRING_BASE, struct.pack("<II", index, base))
        self.tell(SET_VRING_ADDR, struct.pack("<IIQQQQ", index, 0, user(queue.desc),
                                              user(queue.used), user(queue.avail), 0))
        self.tell(SET_VRING_CALL, struct.pack("<Q", index), [queue.call])
        self.tell(SET_VRING_ERR, struct.pack("<Q", index), [queue.err])
        self.tell(SET_VRING_KICK, struct.pack("<Q", index), [queue.kick])

    def device_address(self, guest: int) -> int:
        """What descriptors hold."""
        return guest

    def ring_address(self, guest: int) -> int:
        """What SET_VRING_ADDR holds."""
        return self.memory.user(guest)

    def serve(self) -> int:
        """Called again and again while the device is waited for: answers what it asks."""
        return 0

    def enable(self, on: bool = True) -> None:
        if self.features >> PROTOCOL_FEATURES & 1:
            for index in range(len(self.queues)):
                self.tell(SET_VRING_ENABLE, struct.pack("<II", index, int(on)))

    def stop_queue(self, index: int) -> int:
        """Stops a ring; the index of the next chain that the device would have fetched."""
        return struct.unpack("<II", self.ask(GET_VRING_BASE, struct.pack("<II", index, 0)))[1]

    def stop(self) -> None:
        for index in range(len(self.queues)):
            self.stop_queue(index)

    def close(self) -> None:
        """Closes the connection as a killed process would: without a word."""
        self.sock.close()
        for queue in self.queues:
            queue.close()
        self.queues.clear()
        self.memory.close()

    # Frames.

    def _post_buffers(self, queue: SplitQueue) -> None:
        """Fills a receive ring, its buffers in turn from every region that has room."""
        count = len(self.memory.regions)
        for number in range(queue.size):
            for attempt in range(count):
                try:
                    address = self.memory.allocate(self.buffer_size,
                                                   region=(number + attempt) % count)
                    break
                except HarnessError:
                    continue
            else:
                break
            queue.add([(address, self.buffer_size, True)], address)
        if not queue.chains:
            raise HarnessError("no room for a receive buffer")
        queue.publish()

    def _plan_tx_buffers(self) -> None:
        """What is left of each region holds frames to send."""
        self.tx_space = []
        for region in self.memory.regions:
            start = -(-region.top // 16) * 16
            self.tx_space.append((region.guest + start, region.size - start))
        self._tx_turn = 0

    def place(self, pieces: Sequence[bytes]) -> list[int]:
        """Copies each piece into a region that has room for it, the next one in turn; the guest
        addresses. The same places serve the next call."""
        taken = [0] * len(self.tx_space)
        placed = []
        for piece in pieces:
            for _ in self.tx_space:
                pick = self._tx_turn % len(self.tx_space)
                self._tx_turn += 1
                address, room = self.tx_space[pick]
                if room - taken[pick] >= len(piece):
                    break
            else:
                raise HarnessError(f"no region has room for {len(piece)} bytes")
            placed.append(address + taken[pick])
            self.memory.write(placed[-1], piece)
            taken[pick] += -(-len(piece) // 16) * 16
        return placed

    def send(self, frame: bytes, *, pair: int = 0, header: bytes = b"",
             cuts: Sequence[int] = (), indirect: bool = False, timeout: float = 5) -> None:
        """Sends a frame and waits until the device has returned it.

        `cuts` are offsets into header and frame, taken together, at which a new descriptor
        begins; each piece may lie in another region.
        """
        data = header.ljust(self.header_size, b"\0") + frame
        queue = self.queues[2 * pair + 1]
        edges = [0, *cuts, len(data)]
        pieces = [data[a:b] for a, b in zip(edges, edges[1:])]
        placed = [(address, len(piece), False)
                  for address, piece in zip(self.place(pieces), pieces)]
        if not queue.add(placed, None, self._tx_tables[0] if indirect else 0):
            raise HarnessError("the transmit ring is full")
        queue.publish()
        self.wait_sent(pair, timeout)

    def send_batch(self, frames: Sequence[bytes], *, pair: int = 0, timeout: float = 5) -> None:
        """Sends frames, of one region's room together, at once; waits for all of them."""
        queue = self.queues[2 * pair + 1]
        address, room = self.tx_space[0]
        for frame in frames:
            data = bytes(self.header_size) + frame
            if len(data) > room or not queue.add([(address, len(data), False)], None):
                raise HarnessError("the frames do not fit into ring and memory at once")
            self.memory.write(address, data)
            address, room = address + len(data), room - len(data)
        queue.publish()
        self.wait_sent(pair, timeout)

    def wait_sent(self, pair: int = 0, timeout: float = 5) -> None:
        queue = self.queues[2 * pair + 1]

        def done() -> bool:
            self.serve()
            queue.take_used()
            return not queue.chains
        wait_until(done, timeout, f"the device returns {len(queue.chains)} transmit chains",
                   0.0005)

    def poll(self) -> list[bytes]:
        """The frames that have come in on all queues, without their headers."""
        return [frame for _, frame in self.poll_with_headers()]

    def poll_with_headers(self) -> list[tuple[bytes, bytes]]:
        """(virtio-net header, frame) of what has come in; buffers go back into the ring."""
        size = self.header_size
        for pair in range(self.pairs):
            queue = self.queues[2 * pair]
            again = False
            for address, length in queue.take_used():
                data = self.memory.read(address, length)
                queue.add([(address, self.buffer_size, True)], address)
                again = True
                parts = self._partial[pair]
                if not parts:
                    mergeable = self.features >> MRG_RXBUF & 1
                    self._expect[pair] = (struct.unpack_from("<H", data, 10)[0] if mergeable else 1)
                parts.append(data)
                if len(parts) == self._expect[pair]:
                    whole = b"".join(parts)
                    self._reads.append((whole[:size], whole[size:]))
                    parts.clear()
            if again:
                queue.publish()
        found = list(self._reads)
        self._reads.clear()
        return found

    def receive(self, count: int, timeout: float = 5) -> list[bytes]:
        """Exactly `count` frames, or an error after `timeout` seconds."""
        return [frame for _, frame in self.receive_with_headers(count, timeout)]

    def receive_with_headers(self, count: int, timeout: float = 5) -> list[tuple[bytes, bytes]]:
        got: list[tuple[bytes, bytes]] = []

        def enough() -> bool:
            self.serve()
            got.extend(self.poll_with_headers())
            return len(got) >= count
        wait_until(enough, timeout, f"{count} frames come in on {self.path}", 0.0005)
        return got
