"""Repairing tables before they are interpolated: missing cells, noise that makes times fall, clamped ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LONG_LINE = 48


def isotonic(values: Floats, axis: int) -> Floats:
    """Return the non-decreasing values along ``axis`` that are nearest to ``values`` (least squares, equal weights).

    Short lines by the max-min formula over the means of all stretches (Barlow et al., 1972), many at once; long ones by
    pooling adjacent violators. Applied along one axis after another it makes a table monotone in all of them, because
    it keeps the order of ordered lines.
    """
    lines = np.moveaxis(values, axis, -1)
    flat = lines.reshape(-1, lines.shape[-1]).copy()
    falling = np.flatnonzero((np.diff(flat, axis=1) < 0).any(axis=1))
    if flat.shape[1] > LONG_LINE:
        for row in falling:
            flat[row] = _pooled(flat[row].tolist())
    else:
        for part in np.array_split(falling, max(1, len(falling) * flat.shape[1] // 2**15)):
            flat[part] = _max_min(flat[part])
    return np.moveaxis(flat.reshape(lines.shape), -1, axis)


def _pooled(line: list[float]) -> list[float]:
    """Return the isotonic regression of one line, pooling adjacent violators."""
    sums: list[float] = []
    counts: list[int] = []
    for value in line:
        total, count = value, 1
        while sums and sums[-1] * count > total * counts[-1]:
            total += sums.pop()
            count += counts.pop()
        sums.append(total)
        counts.append(count)
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    return [
        mean for mean, count in zip(np.maximum.accumulate(means).tolist(), counts, strict=True) for _ in range(count)
    ]


def _max_min(lines: Floats) -> Floats:
    """Return for each place the greatest, over all starts up to it, of the least mean of a stretch that reaches it."""
    columns = np.ascontiguousarray(lines.T)
    sums = np.cumsum(columns, axis=0)
    best = np.full_like(columns, -np.inf)
    for start in range(len(columns)):
        means = sums[start:] - sums[start - 1] if start else sums.copy()
        means /= np.arange(1, len(means) + 1)[:, None]
        np.minimum.accumulate(means[::-1], axis=0, out=means[::-1])
        np.maximum(best[start:], means, out=best[start:])
    return np.asarray(np.maximum.accumulate(best, axis=0).T)


def monotone(values: Floats) -> Floats:
    """Return a table that falls along none of its axes, near ``values``."""
    for axis in range(values.ndim):
        values = isotonic(values, axis)
    return values


def fill(values: Floats, axes: Sequence[NDArray[np.int64]], order: Sequence[int]) -> Floats:
    """Return the table with its missing cells (NaN) filled, axis by axis in ``order``.

    First everything between known cells, linearly; then what lies above the last known cell of a line, along the
    straight line through it and the nearest known cell at no more than two thirds of its coordinate; then the rest, by
    the nearest known cell of a line.
    """
    for place in ("between", "above", "anywhere"):
        for axis in order:
            if not np.isnan(values).any():
                return values
            values = _fill_axis(values, np.asarray(axes[axis], dtype=np.float64), axis, place)
    return values


def _fill_axis(values: Floats, places: Floats, axis: int, place: str) -> Floats:
    lines = np.moveaxis(values, axis, -1)
    flat = lines.reshape(-1, len(places)).copy()
    known = ~np.isnan(flat)
    open_lines = np.flatnonzero(known.any(axis=1) & ~known.all(axis=1))
    codes = known[open_lines] @ (2.0 ** np.arange(len(places)))
    for code in np.unique(codes):
        rows = open_lines[codes == code]
        pattern = known[rows[0]]
        weights, wanted = _weights(places[pattern], places, place)
        wanted &= ~pattern
        if wanted.any():
            flat[np.ix_(rows, np.flatnonzero(wanted))] = flat[rows][:, pattern] @ weights[:, wanted]
    return np.moveaxis(flat.reshape(lines.shape), -1, axis)


def _weights(known: Floats, wanted: Floats, place: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the matrix that takes values at ``known`` places to ``wanted`` ones, and for which of these it holds."""
    units = np.eye(len(known))
    weights = np.array([np.interp(wanted, known, unit) for unit in units])
    if place == "between":
        return weights, (wanted > known[0]) & (wanted < known[-1])
    if place == "anywhere" or len(known) == 1:
        return weights, np.full(len(wanted), place == "anywhere")
    base = base_index(known)
    t = (wanted - known[base]) / (known[-1] - known[base])
    return np.outer(units[base], 1 - t) + np.outer(units[-1], t), wanted > known[-1]


def base_index(places: Floats | NDArray[np.int64]) -> int:
    """Return the index of the nearest sample at no more than two thirds of the last one's coordinate (else the first).

    A slope over so wide a step is robust: noise of the last two of many close samples does not decide it.
    """
    near = np.flatnonzero(places[:-1] <= places[-1] * 2 / 3)
    return int(near[-1]) if len(near) else 0


def without_holes(values: Floats, axis: int) -> Floats:
    """Return the table with impossible cells replaced: those below a quarter of the next one along ``axis``.

    Fits leave such holes where they had no data; the nearest sound cell above stands in.
    """
    lines = np.moveaxis(values, axis, 0).copy()
    for i in range(len(lines) - 2, -1, -1):
        lines[i] = np.where(lines[i] < lines[i + 1] / 4, lines[i + 1], lines[i])
    return np.moveaxis(lines, 0, axis)


def refine(values: Floats, places: NDArray[np.int64], axis: int) -> tuple[Floats, NDArray[np.int64]]:
    """Insert the middle of each step along ``axis`` (where it is a whole number), on the curve through its neighbours.

    A quadratic cost sampled on a doubling grid lies up to an eighth below the chord; with the middles, a thirtieth. The
    middle is the mean of the parabolas through the step and the next sample on either side, kept between its ends.
    """
    lines = np.moveaxis(values, axis, 0)
    x = places.astype(np.float64)
    rows: list[Floats] = [lines[0]]
    grid = [int(places[0])]
    for i in range(len(places) - 1):
        middle = int(places[i] + places[i + 1]) // 2
        if places[i] < middle < places[i + 1]:
            bends = [_parabola(lines, x, start, middle) for start in (i - 1, i) if 0 <= start <= len(places) - 3]
            value = sum(bends) / len(bends) if bends else lines[i] + (lines[i + 1] - lines[i]) * _part(x, i, middle)
            rows.append(np.clip(value, lines[i], np.maximum(lines[i], lines[i + 1])))
            grid.append(middle)
        rows.append(lines[i + 1])
        grid.append(int(places[i + 1]))
    return np.moveaxis(np.array(rows), 0, axis), np.array(grid)


def _part(x: Floats, i: int, at: float) -> float:
    return float((at - x[i]) / (x[i + 1] - x[i]))


def _parabola(lines: Floats, x: Floats, start: int, at: float) -> Floats:
    """Return the value at ``at`` of the parabola through samples ``start`` to ``start + 2``."""
    (x0, x1, x2), (y0, y1, y2) = x[start : start + 3], lines[start : start + 3]
    first, second = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    return np.asarray(y0 + first * (at - x0) + (second - first) / (x2 - x0) * (at - x0) * (at - x1))


def trimmed_length(values: Floats, axis: int) -> int:
    """Return how many samples along ``axis`` are left when a constant end (a clamped fit) is cut to its first one."""
    lines = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    changes = np.flatnonzero((np.diff(lines, axis=0) != 0).any(axis=1))
    return int(changes[-1]) + 2 if len(changes) else 1
