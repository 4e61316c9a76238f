"""The makespan of a step whose weights are loaded: computing, and one first-come-first-served queue per memory device.

A step is a chain ``start, layer 0, layer 1, ..., end``. All times are whole nanoseconds but that of a layer, ``c``: a
step's length is a *line* ``x + m c`` along whatever path is the longest. Lines are found once and used again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Line(NamedTuple):
    """A time as a function of a layer's: ``fixed_ns + layers * c``."""

    fixed_ns: int
    layers: int

    def at(self, layer_ns: float) -> float:
        """Return the time for layers of that length."""
        return self.fixed_ns + self.layers * layer_ns


class Module(NamedTuple):
    """Weights that are loaded as one: a layer's, or (``layer`` = number of layers) those of the end.

    ``loads``: device and time of each of its loads.
    """

    layer: int
    loads: tuple[tuple[str, int], ...]


def busiest_ns(modules: Sequence[Module]) -> int:
    """Return how long the busiest device serves one step."""
    busy: dict[str, int] = {}
    for module in modules:
        for device, load_ns in module.loads:
            busy[device] = busy.get(device, 0) + load_ns
    return max(busy.values(), default=0)


def serial_ns(modules: Sequence[Module]) -> int:
    """Return the time of all loads, were nothing to overlap."""
    return sum(load_ns for module in modules for _, load_ns in module.loads)


def loaded_ahead(
    start_ns: int, end_ns: int, num_layers: int, modules: Sequence[Module], buffers: int, layer_ns: float
) -> Line:
    """Return the length of one of a row of equal steps, with weights loaded ahead into buffers.

    The load of a module is issued when its buffer is free: when the module ``buffers`` before it has been computed.
    The first ``buffers`` modules of a step are loaded in the one before it: all but one from when its last module
    begins to compute (all its loads are done then), one when that has ended. With 0 buffers a load is issued when the
    module's turn comes. Never less than computing alone or the busiest device; never more than both in turn.

    Parameters
    ----------
    start_ns, end_ns
        What is computed before the first and after the last layer.
    modules
        By layer, ascending.
    """
    whole = Line(start_ns + end_ns, num_layers)
    least = max(whole, Line(busiest_ns(modules), 0), key=lambda line: line.at(layer_ns))
    buffers = min(buffers, len(modules))
    begun, computed = _of_last(modules, end_ns, num_layers)
    ends: list[Line] = []
    free: dict[str, Line] = {}
    now, layer = Line(start_ns, 0), 0
    for number, module in enumerate(modules):
        now = Line(now.fixed_ns, now.layers + module.layer - layer)
        if buffers == 0:
            issued = now
        elif number < buffers:
            issued = begun if number < buffers - 1 else computed
        else:
            issued = ends[number - buffers]
        for device, load_ns in module.loads:
            begin = _later(issued, free.get(device, issued), layer_ns)
            free[device] = arrived = Line(begin.fixed_ns + load_ns, begin.layers)
            now = _later(now, arrived, layer_ns)
        is_end = module.layer == num_layers
        now = Line(now.fixed_ns + end_ns, now.layers) if is_end else Line(now.fixed_ns, now.layers + 1)
        layer = module.layer + 1
        ends.append(now)
    if layer <= num_layers:
        now = Line(now.fixed_ns + end_ns, now.layers + num_layers - layer)
    return _later(now, least, layer_ns)


def _of_last(modules: Sequence[Module], end_ns: int, num_layers: int) -> tuple[Line, Line]:
    """Return when the last module of the step before began to compute, and when it ended, from this step's start."""
    if not modules or modules[-1].layer == num_layers:
        return Line(-end_ns, 0), Line(0, 0)
    left = num_layers - modules[-1].layer
    return Line(-end_ns, -left), Line(-end_ns, 1 - left)


def _later(first: Line, second: Line, layer_ns: float) -> Line:
    return first if first.at(layer_ns) >= second.at(layer_ns) else second


class Row(NamedTuple):
    """One operator of a step in which all loads are issued at the start.

    ``counts``: whether its time is the layer's own variable one; else it is ``fixed_ns``. ``load``: device and time of
    its weights' load, None where there is none.
    """

    fixed_ns: int
    counts: bool = False
    load: tuple[str, int] | None = None


def issued_at_start(rows: Sequence[Row], queued: Callable[[str], bool] = lambda _: True) -> list[Line]:
    """Return the lines of which the longest is the step's length, where all loads are issued at its start.

    An operator computes when the one before it has ended and its own weights are there: the step takes the longest of
    "weights of operator k are there" plus "all from k on are computed".

    Parameters
    ----------
    queued
        Whether a device serves one load after the other; else all at once.
    """
    arrived: list[int] = []
    free: dict[str, int] = {}
    for row in rows:
        ready = 0
        if row.load is not None:
            device, load_ns = row.load
            ready = load_ns + (free.get(device, 0) if queued(device) else 0)
            free[device] = ready
        arrived.append(ready)
    longest: dict[int, int] = {}
    fixed = layers = 0
    for row, ready in zip(reversed(rows), reversed(arrived), strict=True):
        fixed += row.fixed_ns
        layers += row.counts
        if ready:
            longest[layers] = max(longest.get(layers, 0), ready + fixed)
    lines = [Line(fixed_ns, count) for count, fixed_ns in longest.items()]
    return [*lines, Line(fixed, layers)]


LONGEST_NS = 1e12
"""A layer's time beyond which nothing but computing counts: a quarter of an hour."""

_SAME_NS = 1e-3


class Lines:
    """The length of steps of one kind by their layer's time, found where asked for and kept.

    The length is convex, so that between two points with the same line that line holds. Between two different ones it
    is asked for where they cross: either both hold up to there, or a third one is found.

    Parameters
    ----------
    find
        Returns the line that holds at a layer's time.
    """

    def __init__(self, find: Callable[[float], Line]) -> None:
        self._find = find
        self._lines = [find(0.0), find(LONGEST_NS)]
        self._crossings: list[float | None] = [None]
        """Where each line gives way to the next; None: not known yet."""
        self._points = [0.0, LONGEST_NS]
        """Where each line was found."""

    def at(self, layer_ns: float) -> float:
        """Return the length of a step."""
        while True:
            i = min(bisect_right(self._points, layer_ns), len(self._points) - 1)
            crossing = self._crossings[i - 1]
            if crossing is not None:
                return self._lines[i - 1 if layer_ns < crossing else i].at(layer_ns)
            self._ask_between(i)

    def _ask_between(self, i: int) -> None:
        """Ask where the lines before and behind a gap cross."""
        first, second = self._lines[i - 1], self._lines[i]
        if first.layers == second.layers:
            self._crossings[i - 1] = self._points[i]
            return
        crossing = (first.fixed_ns - second.fixed_ns) / (second.layers - first.layers)
        found = self._find(crossing)
        if found.at(crossing) <= first.at(crossing) + _SAME_NS:
            self._crossings[i - 1] = crossing
            return
        self._points.insert(i, crossing)
        self._lines.insert(i, found)
        self._crossings[i - 1 : i] = [None, None]
