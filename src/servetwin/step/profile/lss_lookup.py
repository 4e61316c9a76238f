"""LLMServingSim's own interpolation of a profile, with its defects (``interpolation: lss``).

Every blend is linear; below a grid the first value holds, above it the last two samples are extended, noise and all;
results are cut to whole nanoseconds. Order of operations and truncation are kept: times agree to the nanosecond.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from servetwin.step.profile.tables import Curve, JointAttention

PAGE = 512
"""Decode-only times are computed for this many consecutive contexts at once."""


def bracket(values: Sequence[float], query: float) -> tuple[int, int, float]:
    """Return the two samples around ``query`` and its place between them (above 1 beyond the last sample)."""
    if len(values) == 1 or query <= values[0]:
        return 0, 0, 0.0
    high = min(bisect_right(values, query), len(values) - 1)
    low = high - 1
    return low, high, (query - values[low]) / (values[high] - values[low])


class LssCurve:
    """A table over one axis."""

    def __init__(self, curve: Curve) -> None:
        self._counts: list[int] = curve.counts.tolist()
        self._times: list[float] = curve.time_ns.tolist()

    def __call__(self, count: int) -> float:
        """Return the time for ``count`` tokens or sequences, in nanoseconds."""
        low, high, t = bracket(self._counts, count)
        if t in (0.0, 1.0):
            return self._times[high if t else low]
        return max(1, int(self._times[low] + t * (self._times[high] - self._times[low])))


class _Slice:
    """Rows of one (chunk, decodes): per prefill context, times over the decodes' context. Rows are ragged."""

    def __init__(
        self, kv_prefill: NDArray[np.int64], kv_decode: NDArray[np.int64], time_ns: NDArray[np.float64]
    ) -> None:
        order = np.lexsort((kv_decode, kv_prefill))
        self.contexts, starts = np.unique(kv_prefill[order], return_index=True)
        bounds = [*starts.tolist(), len(order)]
        self.keys = [kv_decode[order[a:b]] for a, b in pairwise(bounds)]
        self.times = [time_ns[order[a:b]] for a, b in pairwise(bounds)]
        self._contexts: list[int] = self.contexts.tolist()
        self._keys: list[list[int]] = [keys.tolist() for keys in self.keys]
        self._times: list[list[float]] = [times.tolist() for times in self.times]

    def at(self, kv_prefill: int, kv_decode: int) -> float:
        low, high, t = bracket(self._contexts, kv_prefill)
        first = self._row(low, kv_decode)
        return first + t * (self._row(high, kv_decode) - first)

    def _row(self, row: int, kv_decode: int) -> float:
        keys, times = self._keys[row], self._times[row]
        low, high, t = bracket(keys, kv_decode)
        return times[low] + t * (times[high] - times[low])

    def first_row(self, kv_decode: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return ``at(0, k)`` for many ``k`` at once."""
        keys, times = self.keys[0], self.times[0]
        if len(keys) == 1:
            return np.full(len(kv_decode), times[0])
        high = np.clip(np.searchsorted(keys, kv_decode, side="right"), 1, len(keys) - 1)
        low = high - 1
        t = np.where(kv_decode <= keys[0], 0.0, (kv_decode - keys[low]) / (keys[high] - keys[low]))
        return np.asarray(times[low] + t * (times[high] - times[low]))


class LssJointAttention:
    """A joint attention table: ``A(chunk, prefill context, decodes, decodes' context)``."""

    def __init__(self, table: JointAttention) -> None:
        self._chunks: list[int] = np.unique(table.prefill_chunk).tolist()
        self._decodes: list[int] = np.unique(table.num_decodes).tolist()
        self._slices = self._sliced(table)
        self._nearest: dict[tuple[int, int], _Slice] = {}
        self._pages: dict[tuple[int, int], list[int]] = {}

    @staticmethod
    def _sliced(table: JointAttention) -> dict[tuple[int, int], _Slice]:
        order = np.lexsort((table.num_decodes, table.prefill_chunk))
        chunks, decodes = table.prefill_chunk[order], table.num_decodes[order]
        new = np.flatnonzero((np.diff(chunks) != 0) | (np.diff(decodes) != 0)) + 1
        return {
            (int(table.prefill_chunk[rows[0]]), int(table.num_decodes[rows[0]])): _Slice(
                table.kv_prefill[rows], table.kv_decode[rows], table.time_ns[rows]
            )
            for rows in np.split(order, new)
        }

    def at(self, chunk: int, kv_prefill: int, num_decodes: int, kv_decode: int) -> int:
        """Return the time of one layer's attention, in whole nanoseconds."""
        low_p, high_p, t_p = bracket(self._chunks, chunk)
        low_n, high_n, t_n = bracket(self._decodes, num_decodes)

        def along_decodes(p: int) -> float:
            low = self._slice(self._chunks[p], self._decodes[low_n]).at(kv_prefill, kv_decode)
            high = self._slice(self._chunks[p], self._decodes[high_n]).at(kv_prefill, kv_decode)
            return low + t_n * (high - low)

        first = along_decodes(low_p)
        second = along_decodes(high_p) if high_p != low_p else first
        return max(1, int(first + t_p * (second - first)))

    def decode_run(self, num_decodes: int, kv_decode: int, count: int) -> list[int]:
        """Return ``at(0, 0, n, k)`` for ``count`` consecutive ``k``."""
        page, offset = divmod(kv_decode, PAGE)
        times: list[int] = []
        while len(times) < count:
            times += self._page(num_decodes, page)[offset : offset + count - len(times)]
            page, offset = page + 1, 0
        return times

    def decode(self, num_decodes: int, kv_decode: int) -> int:
        """Return ``at(0, 0, n, k)``."""
        page, offset = divmod(kv_decode, PAGE)
        return self._page(num_decodes, page)[offset]

    def _page(self, num_decodes: int, page: int) -> list[int]:
        found = self._pages.get((num_decodes, page))
        if found is None:
            found = self._pages[num_decodes, page] = self._compute_page(num_decodes, page)
        return found

    def _compute_page(self, num_decodes: int, page: int) -> list[int]:
        contexts = np.arange(page * PAGE, (page + 1) * PAGE)
        low_n, high_n, t_n = bracket(self._decodes, num_decodes)
        low = self._slice(self._chunks[0], self._decodes[low_n]).first_row(contexts)
        high = self._slice(self._chunks[0], self._decodes[high_n]).first_row(contexts)
        blended: list[int] = np.maximum(1, (low + t_n * (high - low)).astype(np.int64)).tolist()
        return blended

    def _slice(self, chunk: int, num_decodes: int) -> _Slice:
        """Return a slice, or where it was not measured the nearest one in (chunk, decodes)."""
        found = self._slices.get((chunk, num_decodes)) or self._nearest.get((chunk, num_decodes))
        if found is None:
            nearest = min(self._slices, key=lambda at: (at[0] - chunk) ** 2 + (at[1] - num_decodes) ** 2)
            found = self._nearest[chunk, num_decodes] = self._slices[nearest]
        return found
