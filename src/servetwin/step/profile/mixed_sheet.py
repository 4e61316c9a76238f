"""Attention of one prefill chunk beside decodes in one kernel call: a monotone table over four axes."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from servetwin.step.profile.grids import Floats, base_index, fill, monotone, refine
from servetwin.step.profile.tables import Counts, JointAttention

REFINED_FROM = 128
"""Chunks from here on are sampled at the middles too: the quadratic part of their cost begins to count."""


class MixedSheet:
    """Time over (chunk, its context, decodes, their mean context), linear in each between samples.

    Cells that were not measured are filled (`grids.fill`): along the contexts first, then along the decodes, so that
    the cells beside a chunk at the greatest number of decodes follow the last two measured ones. Beyond an axis' end
    its own last slope goes on: context of the chunk at that chunk's rate, decodes and their context as beside the
    smallest chunk. A chunk longer than the longest measured is computed in pieces, each on the context that the ones
    before it leave.
    """

    def __init__(self, table: JointAttention) -> None:
        rows = table.prefill_chunk > 0
        columns = [
            column[rows] for column in (table.prefill_chunk, table.kv_prefill, table.num_decodes, table.kv_decode)
        ]
        self._build(columns, table.time_ns[rows], int(table.num_decodes.max()))

    def _build(self, columns: list[Counts], time_ns: Floats, most_decodes: int) -> None:
        axes = [np.unique(column) for column in columns]
        axes[2] = np.union1d(axes[2], [0, most_decodes])
        values = np.full([len(axis) for axis in axes], np.nan)
        values[tuple(np.searchsorted(axis, column) for axis, column in zip(axes, columns, strict=True))] = time_ns
        values[:, :, 0] = values[:, :, 0, :1]  # without decodes their context does not matter
        values = fill(values, axes, order=(3, 1, 2, 0))
        start = int(np.searchsorted(axes[0], REFINED_FROM))
        upper, chunks = refine(values[start:], axes[0][start:], 0)
        values = monotone(np.concatenate([values[:start], upper]))
        axes[0] = np.concatenate([axes[0][:start], chunks])
        self.ends = [int(axis[-1]) for axis in axes]
        self._slopes = _Slopes(values, axes)
        self.serial_ns_per_token = float((values[0, 0, 1, -1] - values[0, 0, 1, 0]) / (axes[3][-1] - axes[3][0]))
        self._axes: list[list[int]] = [axis.tolist() for axis in axes]
        shape = values.shape
        self._strides = (shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3])
        self._values: list[float] = values.ravel().tolist()
        chunk_axis, _, decode_axis, _ = self._axes
        self._chunk_places = [place(chunk_axis, chunk) for chunk in range(self.ends[0] + 1)]
        self._decode_places = [place(decode_axis, decodes) for decodes in range(self.ends[2] + 1)]

    def at(self, chunk: int, context: int, decodes: int, mean_context: float) -> float:
        """Return the time of one layer, in nanoseconds."""
        last_chunk, last_context, last_decodes, last_mean = self.ends
        if chunk > last_chunk:
            return self._in_pieces(chunk, context, decodes, mean_context)
        if context <= last_context and decodes <= last_decodes and mean_context <= last_mean:
            return self._inside(chunk, context, decodes, mean_context)
        inside = self._inside(
            chunk, min(context, last_context), min(decodes, last_decodes), min(mean_context, last_mean)
        )
        return inside + self._slopes.beyond(chunk, context, decodes, mean_context)

    def _in_pieces(self, chunk: int, context: int, decodes: int, mean_context: float) -> float:
        piece = self.ends[0]
        time = self.at(piece, context, decodes, mean_context)
        floor = self._values[0]
        while chunk > piece:
            chunk, context = chunk - piece, context + piece
            time += self.at(min(chunk, piece), context, 0, 0) - floor
        return time

    def _inside(self, chunk: int, context: int, decodes: int, mean_context: float) -> float:
        stride_chunk, stride_context, stride_decodes = self._strides
        i, t_chunk = self._chunk_places[chunk]
        j, t_context = place(self._axes[1], context) if context else (0, 0.0)
        m, t_decodes = self._decode_places[decodes]
        k, t_mean = place(self._axes[3], mean_context)
        at = i * stride_chunk + j * stride_context + m * stride_decodes + k
        time = self._pair(at, stride_decodes, t_decodes, t_mean)
        if t_context:
            time += t_context * (self._pair(at + stride_context, stride_decodes, t_decodes, t_mean) - time)
        if t_chunk:
            at += stride_chunk
            upper = self._pair(at, stride_decodes, t_decodes, t_mean)
            if t_context:
                upper += t_context * (self._pair(at + stride_context, stride_decodes, t_decodes, t_mean) - upper)
            time += t_chunk * (upper - time)
        return time

    def _pair(self, at: int, stride_decodes: int, t_decodes: float, t_mean: float) -> float:
        """Interpolate over the decodes and their context, at one chunk and context."""
        values = self._values
        low = values[at]
        if t_mean:
            low += t_mean * (values[at + 1] - low)
        if not t_decodes:
            return low
        at += stride_decodes
        high = values[at]
        if t_mean:
            high += t_mean * (values[at + 1] - high)
        return low + t_decodes * (high - low)


def place(axis: list[int], value: float) -> tuple[int, float]:
    """Return the sample at or below ``value`` and the part of the way to the next (0 at the ends and outside)."""
    i = bisect_right(axis, value) - 1
    if i < 0:
        return 0, 0.0
    if i == len(axis) - 1:
        return i, 0.0
    low = axis[i]
    return i, (value - low) / (axis[i + 1] - low)


class _Slopes:
    """How times go on beyond the ends of the axes; each slope falls along nothing."""

    def __init__(self, values: Floats, axes: list[Counts]) -> None:
        self._axes = axes
        self._per_context = _last_slope(values[:, :, 0, 0], axes[1], 1)  # by chunk
        self._per_mean = _last_slope(values[0, 0], axes[3], 1)  # by decodes
        self._per_decode = _last_slope(values[0, 0], axes[2], 0)  # by mean context

    def beyond(self, chunk: int, context: int, decodes: int, mean_context: float) -> float:
        """Return what is added to the time at the nearest point inside."""
        chunks, contexts, counts, means = self._axes
        extra = max(0, context - int(contexts[-1])) * float(np.interp(chunk, chunks, self._per_context))
        if decodes > counts[-1]:
            extra += float(decodes - counts[-1]) * float(np.interp(mean_context, means, self._per_decode))
        if mean_context > means[-1]:
            share = max(1.0, decodes / int(counts[-1]))
            extra += (mean_context - float(means[-1])) * share * float(np.interp(decodes, counts, self._per_mean))
        return extra


def _last_slope(values: Floats, places: Counts, axis: int) -> Floats:
    if len(places) < 2:
        return np.zeros(values.shape[1 - axis])
    base = base_index(places)
    lines = np.moveaxis(values, axis, 0)
    return np.maximum.accumulate((lines[-1] - lines[base]) / float(places[-1] - places[base]))
