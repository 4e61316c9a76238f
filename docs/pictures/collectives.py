"""Draws ``collectives.svg``, an all-reduce among eight H100: ``python docs/pictures/collectives.py``."""

from __future__ import annotations

import math
from pathlib import Path

from servetwin.network import TopologyCollectives, preset_topology

SIZES = [2 ** (10 + i / 4) for i in range(73)]  # 1 KiB to 256 MiB
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 400, 60, 20, 20, 45
LOW_US, HIGH_US = 3.0, 3000.0
CURVES = (
    ("one_shot", "#d95f02", "one-shot"),
    ("two_shot", "#7570b3", "two-shot"),
    ("ring", "#1b9e77", "NCCL ring"),
    ("in_switch", "#e7298a", "in the switch"),
)


def x_of(size: float) -> float:
    """Return where a size stands."""
    return LEFT + (math.log2(size) - 10) / 18 * (WIDTH - LEFT - RIGHT)


def y_of(time_us: float) -> float:
    """Return where a time stands."""
    share = math.log(time_us / LOW_US) / math.log(HIGH_US / LOW_US)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def line(name: str | None, colour: str, width: float) -> str:
    """Return the polyline of an algorithm (None: the cheapest)."""
    place = preset_topology("hgx_h100")
    model = TopologyCollectives(place, algorithm=name)
    points = [(x_of(size), y_of(model.all_reduce_ns(size, 8) / 1e3)) for size in SIZES]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points if y >= TOP)
    return f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def picture() -> str:
    """Return the SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for power, label in ((10, "1 KiB"), (14, "16 KiB"), (18, "256 KiB"), (22, "4 MiB"), (26, "64 MiB")):
        x = x_of(2**power)
        parts.append(f'<path d="M{x:.0f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    for time_us in (5, 10, 100, 1000):
        y = y_of(time_us)
        parts.append(f'<path d="M{LEFT} {y:.0f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{time_us} us</text>')
    parts.append(line(None, "#bbbbbb", 9))
    parts += [line(name, colour, 2) for name, colour, _ in CURVES]
    for i, (_, colour, label) in enumerate((*CURVES, ("", "#999999", "auto (the cheapest)"))):
        parts.append(f'<text x="{LEFT + 12}" y="{TOP + 16 + 17 * i}" fill="{colour}">{label}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">bytes of the tensor</text></svg>')
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
