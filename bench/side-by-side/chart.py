# SPDX-License-Identifier: Apache-2.0
"""The table's ratios as an SVG picture: for each work a bar a switch, testpmd's as long everywhere."""

from __future__ import annotations

from html import escape

from report import NAMES

_COLORS = {"pollux": "#3b6fd4", "testpmd": "#9aa0a8", "ovs": "#c9cdd3"}
_LEFT, _BAR, _GAP, _UNIT, _TOP = 190, 15, 14, 130, 46


def draw(rows: list[dict], machine: str) -> str:
    """Works without testpmd's figure are left out: there is nothing to measure them by."""
    works: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["to_testpmd"]:
            works.setdefault((row["work"], row["generator"]), []).append(row)
    longest = max((row["to_testpmd"] for row in rows if row["to_testpmd"]), default=1)
    width = int(_LEFT + longest * _UNIT + 150)
    parts: list[str] = []
    y = _TOP
    for (work, generator), some in works.items():
        middle = y + _BAR * len(some) / 2 + 4
        parts.append(_text(_LEFT - 8, middle, f"{work} ({generator})", anchor="end"))
        for row in some:
            parts.append(_bar(row, y))
            y += _BAR
        y += _GAP
    line = _LEFT + _UNIT
    parts.append(f'<line x1="{line}" y1="{_TOP - 8}" x2="{line}" y2="{y - _GAP + 6}" '
                 'stroke="#555" stroke-dasharray="3 3"/>')
    head = (_text(_LEFT, 18, "Packets a second on one core, two vhost-user ports; testpmd io = 1",
                  weight="bold") + _text(_LEFT, 34, machine, color="#777"))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" '
            f'height="{y}" font-family="sans-serif" font-size="12">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n{head}\n' + "\n".join(parts) +
            "\n</svg>\n")


def _bar(row: dict, y: float) -> str:
    length = row["to_testpmd"] * _UNIT
    said = f"{NAMES[row['switch']]}: {row['mpps']:.2f} Mpps, {row['to_testpmd']:.2f}"
    return (f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR - 2}" '
            f'fill="{_COLORS[row["switch"]]}"/>' + _text(_LEFT + length + 5, y + 11, said, size=10))


def _text(x: float, y: float, text: str, *, anchor: str = "start", color: str = "#222",
          weight: str = "normal", size: int = 12) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" '
            f'font-weight="{weight}" font-size="{size}">{escape(text)}</text>')
