# SPDX-License-Identifier: Apache-2.0
"""From addresses to stages."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

# The first pattern that a function of the stack matches, from the innermost function outwards.
_BY_FUNCTION = [
    ("forwarding table", r"stage::forward|Addresses::|Fdb::|stage::.*decide"),
    ("parse", r"stage::parse|ensure_parsed|parse_headers"),
    ("addresses", r"PeerView::(translate|Window)|PeerMemory::"),
    ("available index, heads", r"Ring<.*::(available|heads|head|look|find_chain|read_available)\("),
    ("descriptors", r"Ring<.*::(single|singles|walk|first_of)|find_singles|single_run"),
    ("prefetch", r"prefetch"),
    ("used entries", r"Ring<.*::(put_used|write_used|put_one_for_many)\("),
    ("show, fence, notify", r"::(show|show_sent|show_first|publish|full_fence|notif\w*)\("),
    ("packets and bursts", r"PoolCache::|FreeCache<|FreeList<|Packet::reset|Burst::(append|push)"),
    ("net headers, in", r"NetDeviceRx<.*::(take_plain|take_any|set_offloads)"),
    ("net headers, out", r"header_of|is_plain"),
    ("frames, in", r"NetDeviceRx<.*::(take_frame|take_single|take_chain)"),
    ("frames, out", r"NetDeviceTx<.*::(write_single|put)|NetDeviceTx<.*Reader"),
    ("receiveq: the rest", r"NetDeviceTx<"),
    ("transmitq: the rest", r"NetDeviceRx<"),
    ("outputs, offloads", r"dispatch|Turn::send_to|Turn::transmit|Turn::touch|ready_for|joinable"),
    ("waiting for packets", r"cpu_relax|Worker::(run|idle|sleep)|::idle\("),
    ("turns and rounds", r"Turn::|Worker::|vhost_user::"),
]
_PATTERNS = [(stage, re.compile(pattern)) for stage, pattern in _BY_FUNCTION]
STAGES = [stage for stage, _ in _BY_FUNCTION] + ["everything else"]


def stage_of(stack: list[str]) -> str:
    """`stack`: names of functions, the innermost first."""
    for function in stack:
        for stage, pattern in _PATTERNS:
            if pattern.search(function):
                return stage
    return "everything else"


def stacks(program: Path, addresses: list[int]) -> dict[int, list[str]]:
    """The functions that each address was inlined into, the innermost first."""
    found: dict[int, list[str]] = {}
    asked = "".join(f"{address:#x}\n" for address in addresses)
    lines = subprocess.run(["addr2line", "-a", "-i", "-f", "-C", "-e", str(program)], input=asked,
                           capture_output=True, text=True, check=True).stdout.splitlines()
    at = None
    names: list[str] = []
    for line in lines:
        if re.fullmatch(r"0x[0-9a-f]{8,}", line):
            at, names = int(line, 16), []
            found[at] = names
        else:
            names.append(line)
    # Names and places alternate.
    return {address: found[address][0::2] for address in found}


def by_stage(program: Path, weights: Counter[int]) -> Counter[str]:
    """The weights of addresses, summed up for each stage. A stack without any of the worker's
    functions is control's, and not counted."""
    known = stacks(program, list(weights))
    sums: Counter[str] = Counter()
    for address, weight in weights.items():
        stack = known.get(address, [])
        if any(name.startswith(("pollux::", "(anonymous", "bool pollux::", "void pollux::"))
               for name in stack):
            sums[stage_of(stack)] += weight
    sums.pop("everything else", None)
    return sums


def packets_in(program: Path, counts: Counter[int]) -> int:
    """How many packets were sent on, from how often instructions were executed: what writes a
    frame is executed once a packet, most of it."""
    known = stacks(program, list(counts))
    times = Counter(count for address, count in counts.items()
                    if any("::write_single(" in name for name in known.get(address, [])))
    return times.most_common(1)[0][0] if times else 0
