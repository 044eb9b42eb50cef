# SPDX-License-Identifier: Apache-2.0
"""A driver with a control queue, VIRTIO 1.3, 5.1.6.5."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

from .frontend import Frontend, SplitQueue
from .process import wait_until

OK, ERR = 0, 1
HASH_REPORT = 57


class Driver(Frontend):
    """A front end with a control queue behind its queue pairs."""

    @property
    def header_size(self) -> int:
        return 20 if self.features >> HASH_REPORT & 1 else super().header_size

    def start_queues(self) -> None:
        self.room = self.memory.allocate(70000)
        self.control = SplitQueue(self.memory, 64)
        self.control.open_events()
        super().start_queues()
        self.queues.append(self.control)
        self.start_queue(2 * self.pairs)

    def command(self, data: bytes, cuts: Sequence[int] = (),
                tail: Sequence[tuple[int, bool]] = ((1, True),),
                timeout: float = 10) -> tuple[int, int]:
        """Sends a command cut at `cuts`, followed by `tail` ((length, device writes), ...); the
        acknowledgement, and the length that the device says it wrote."""
        edges = [0, *cuts, len(data)]
        self.memory.write(self.room, data)
        buffers = [(self.room + a, b - a, False) for a, b in zip(edges, edges[1:])]
        at = self.room + len(data)
        for length, writable in tail:
            self.memory.write(at, b"\xee" * length)
            buffers.append((at, length, writable))
            at += length
        assert self.control.add(buffers, None)
        self.control.publish()
        done: list[tuple[object, int]] = []
        wait_until(lambda: done.extend(self.control.take_used()) or done, timeout,
                   "the device returns a command", 0.0005)
        assert select.select([self.control.call], [], [], timeout)[0], "the device does not interrupt"
        os.eventfd_read(self.control.call)
        return self.memory.read(self.room + len(data), 1)[0], done[0][1]

    def do(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        assert self.command(data, cuts) == (OK, 1)

    def refused(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        assert self.command(data, cuts) == (ERR, 1)
