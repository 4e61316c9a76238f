"""Attention of a whole step, one layer: the contract, and the measured tables as physics has them (``default``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from servetwin.step.profile.decode_sheet import DecodeSheet
from servetwin.step.profile.grids import Floats, base_index, fill, monotone, trimmed_length, without_holes
from servetwin.step.profile.mixed_sheet import MixedSheet, place
from servetwin.step.profile.tables import AdditiveAttention, Counts, Grid, JointAttention
from servetwin.step.profile.tilt import tilted

Prefills = Sequence[tuple[int, int]]
"""``(new_tokens, context_tokens)`` per chunk, as in `StepShape`."""


class AttentionTimes(Protocol):
    """The time of one layer's attention, in nanoseconds."""

    ends: dict[str, int]
    """Greatest measured ``chunk``, ``chunk context``, ``decodes`` and ``decode context``."""

    serial_ns_per_token: float
    """Beside a chunk, a sequence of k tokens takes at least k times this, alone on one thread block."""

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int) -> float:
        """Return the time of a step with at least one chunk; ``kv_tokens`` sums the decodes' contexts."""
        ...

    def decode_ns(self, decodes: int, kv_tokens: int) -> float:
        """Return the time of a step without chunks; 0 without decodes."""
        ...

    def decode_run_ns(self, decodes: int, kv_tokens: int, count: int) -> Sequence[float]:
        """Return the times of ``count`` such steps, each with one token more of context per decode."""
        ...


class _Decodes:
    """The part that all tables share: decodes alone."""

    serial_ns_per_token = 0.0

    def __init__(self, sheet: DecodeSheet, more_context: int = 0) -> None:
        self._sheet = sheet
        self._more_context = more_context

    def decode_ns(self, decodes: int, kv_tokens: int) -> float:
        """See `AttentionTimes`."""
        return self._sheet.curve(decodes).at(kv_tokens + decodes * self._more_context) if decodes else 0.0

    def decode_run_ns(self, decodes: int, kv_tokens: int, count: int) -> Sequence[float]:
        """See `AttentionTimes`."""
        return self._sheet.curve(decodes).run(kv_tokens + decodes * self._more_context, decodes, count)


class JointTimes(_Decodes):
    """From a table of joint kernel calls.

    Decodes beside a chunk take their time from the joint rows (kernels that hold a chunk read decodes' KV more slowly).
    Further chunks add what each takes alone beyond the table's least time; the decodes stand beside the chunk with
    which they take longest. A step never takes less than its decodes alone.
    """

    def __init__(self, table: JointAttention) -> None:
        super().__init__(_decode_sheet(table))
        self._mixed = MixedSheet(table) if (table.prefill_chunk > 0).any() else None
        chunk, context, decodes, mean = self._mixed.ends if self._mixed else (0, 0, 0, 0)
        self.ends = {
            "chunk": chunk,
            "chunk context": context,
            "decodes": max(decodes, self._sheet.last_decodes),
            "decode context": max(mean, self._sheet.last_context),
        }
        self.serial_ns_per_token = self._mixed.serial_ns_per_token if self._mixed else 0.0

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int) -> float:
        """See `AttentionTimes`."""
        assert self._mixed is not None
        at = self._mixed.at
        mean = kv_tokens / decodes if decodes else 0.0
        if len(prefills) == 1:
            time = at(*prefills[0], decodes, mean)
        else:
            floor = at(0, 0, 0, 0)
            alone = [at(new, context, 0, 0) for new, context in prefills]
            beside = max(
                at(new, context, decodes, mean) - own for (new, context), own in zip(prefills, alone, strict=True)
            )
            time = sum(alone) - floor * (len(prefills) - 1) + beside
        return max(time, self._sheet.curve(decodes).at(kv_tokens)) if decodes else time


def _decode_sheet(table: JointAttention) -> DecodeSheet:
    rows = table.prefill_chunk == 0
    if not rows.any():
        rows = (table.prefill_chunk == table.prefill_chunk.min()) & (table.kv_prefill == table.kv_prefill.min())
    rows &= table.num_decodes > 0
    decodes, contexts = np.unique(table.num_decodes[rows]), np.unique(table.kv_decode[rows])
    values = np.full((len(decodes), len(contexts)), np.nan)
    values[np.searchsorted(decodes, table.num_decodes[rows]), np.searchsorted(contexts, table.kv_decode[rows])] = (
        table.time_ns[rows]
    )
    return DecodeSheet(decodes, contexts, monotone(fill(values, [decodes, contexts], order=(1, 0))))


class AdditiveTimes(_Decodes):
    """From two tables: the sum over the chunks, and the decodes.

    Ends at which a table is constant (fits that clamp, as random forests do) are cut, and continued. Each decode reads
    half a tile more than its context on average.

    Parameters
    ----------
    table
        The two tables.
    kv_read_ns_per_token
        Least time in which memory delivers a token's KV; 0: not known. Decodes that do not grow with their context are
        tilted by it, see `tilted`.
    """

    def __init__(self, table: AdditiveAttention, kv_read_ns_per_token: float = 0.0) -> None:
        decode = table.decode
        kept = trimmed_length(decode.time_ns, 0)
        values = monotone(without_holes(decode.time_ns[:kept], 1))
        decodes, contexts = decode.first[:kept], decode.second
        values = monotone(tilted(values, decodes, contexts, table.context_tile // 2, kv_read_ns_per_token))
        super().__init__(DecodeSheet(decodes, contexts, values), table.context_tile // 2)
        self._prefill = _PrefillSheet(table.prefill)
        self.ends = {
            "chunk": self._prefill.last_chunk,
            "chunk context": self._prefill.last_context,
            "decodes": self._sheet.last_decodes,
            "decode context": self._sheet.last_context,
        }

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int) -> float:
        """See `AttentionTimes`."""
        at, floor = self._prefill.at, self._prefill.floor
        time = floor + sum(at(new, context) - floor for new, context in prefills)
        return time + self.decode_ns(decodes, kv_tokens)


class _PrefillSheet:
    """A monotone table over (context, chunk).

    Beyond the longest chunk the cost goes on at its mean rate so far, which a convex cost never falls below; beyond the
    longest context each chunk goes on along its own last slope.
    """

    def __init__(self, grid: Grid) -> None:
        kept = trimmed_length(grid.time_ns, 1)
        contexts, chunks = grid.first, grid.second[:kept]
        values = monotone(grid.time_ns[:, :kept])
        self.last_chunk, self.last_context = int(chunks[-1]), int(contexts[-1])
        self.floor = float(values[0, 0])
        self._per_context = self._slopes(values, contexts)
        self._chunks, self._contexts = chunks, contexts
        self._chunk_list: list[int] = chunks.tolist()
        self._context_list: list[int] = contexts.tolist()
        self._values: list[list[float]] = values.tolist()

    @staticmethod
    def _slopes(values: Floats, contexts: Counts) -> Floats:
        if len(contexts) < 2:
            return np.zeros(values.shape[1])
        base = base_index(contexts)
        return np.maximum.accumulate((values[-1] - values[base]) / (contexts[-1] - contexts[base]))

    def at(self, chunk: int, context: int) -> float:
        if chunk > self.last_chunk:
            longest = self.at(self.last_chunk, context)
            rate = (longest - self.at(0, context)) / (self.last_chunk - self._chunk_list[0] or 1)
            return longest + rate * (chunk - self.last_chunk)
        i, t_context = place(self._context_list, context)
        j, t_chunk = place(self._chunk_list, chunk)
        time = self._row(i, j, t_chunk)
        if t_context:
            time += t_context * (self._row(i + 1, j, t_chunk) - time)
        if context > self.last_context:
            time += (context - self.last_context) * float(np.interp(chunk, self._chunks, self._per_context))
        return time

    def _row(self, i: int, j: int, t_chunk: float) -> float:
        row = self._values[i]
        return row[j] + t_chunk * (row[j + 1] - row[j]) if t_chunk else row[j]


@lru_cache(maxsize=16)
def measured_attention(table: JointAttention | AdditiveAttention, kv_read_ns_per_token: float = 0.0) -> AttentionTimes:
    """Return the times of an attention table, interpolated as physics has it; see `AdditiveTimes`.

    The same for the same table: a sweep, or many instances, work out a table once.
    """
    return JointTimes(table) if isinstance(table, JointAttention) else AdditiveTimes(table, kv_read_ns_per_token)
