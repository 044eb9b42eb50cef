# SPDX-License-Identifier: Apache-2.0
"""What is measured: the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass

MIX = "64:7,570:4,1518:1"
LARGE = 65000


@dataclass(frozen=True)
class Work:
    """One kind of traffic through two vhost-user ports, both ways."""
    sizes: str            # bytes, or a mix of sizes with weights
    rings: str            # "split" or "packed in-order"; receive buffers are mergeable
    generator: str        # "testpmd" or "loop": see README.md
    touch: bool = False   # the generator reads all payload, as a guest's stack does

    @property
    def name(self) -> str:
        size = {MIX: "mix", str(LARGE): "64 KiB TSO"}.get(self.sizes, f"{self.sizes} B")
        return f"{size} {self.rings}{', summed' if self.touch else ''}"

    @property
    def large(self) -> bool:
        """TCP segments, to be cut by who needs them smaller."""
        return self.largest > 9216

    @property
    def largest(self) -> int:
        return max(int(part.split(":")[0]) for part in self.sizes.split(","))

    def can(self, switch: str) -> bool:
        """Whether a switch can take part: OVS has no segmentation offloads on sockets of its own."""
        return not (self.large and switch == "ovs")

    @property
    def size(self) -> int | None:
        """Of all its frames, if that is one and they are copied as they are."""
        return self.largest if self.sizes == str(self.largest) and not self.large else None

    @property
    def packed(self) -> bool:
        return self.rings != "split"


def works(sizes: list[int] | None, packed: bool, generators: list[str]) -> list[Work]:
    """All rows, or those of some sizes. What only one generator can do has one row."""
    split, in_order = "split", "packed in-order"
    plain = sizes or [64, 512, 1518, 9000]
    rows = [Work(str(min(plain)), in_order, g) for g in generators if packed]
    rows += [Work(str(size), split, g) for size in plain for g in generators
             if g == "testpmd" or size == min(plain) or "testpmd" not in generators]
    if sizes is None:
        rows += [Work("1518", split, g, touch=True) for g in generators[:1]]
        rows += [Work(text, split, "loop") for text in (MIX, str(LARGE)) if "loop" in generators]
    return rows
