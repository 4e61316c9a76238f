"""Attention of a whole step as LLMServingSim looks it up (``interpolation: lss``), for either kind of table."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import sqrt

from servetwin.step.profile.attention import AttentionTimes, Prefills
from servetwin.step.profile.lss_lookup import LssJointAttention
from servetwin.step.profile.tables import AdditiveAttention, Grid, JointAttention


class LssJointTimes:
    """From a table of joint kernel calls; contexts of decodes enter by their mean, cut to whole tokens.

    LLMServingSim passes one chunk (`merge_prefills`); with several, each further one adds its time alone.
    """

    serial_ns_per_token = 0.0

    def __init__(self, table: JointAttention) -> None:
        self._table = LssJointAttention(table)
        self.ends = {
            "chunk": int(table.prefill_chunk.max()),
            "chunk context": int(table.kv_prefill.max()),
            "decodes": int(table.num_decodes.max()),
            "decode context": int(table.kv_decode.max()),
        }

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int) -> float:
        """See `AttentionTimes`."""
        time = self._table.at(*prefills[0], decodes, kv_tokens // decodes if decodes else 0)
        return time + sum(self._table.at(new, context, 0, 0) for new, context in prefills[1:])

    def decode_ns(self, decodes: int, kv_tokens: int) -> float:
        """See `AttentionTimes`."""
        return self._table.decode(decodes, kv_tokens // decodes) if decodes else 0

    def decode_run_ns(self, decodes: int, kv_tokens: int, count: int) -> Sequence[float]:
        """See `AttentionTimes`."""
        return self._table.decode_run(decodes, kv_tokens // decodes, count)


class LssAdditiveTimes:
    """From two tables, each read at the sample at or above its arguments; beyond an end the last sample holds.

    Prefill: the sum of contexts and the root of the sum of squared chunks, the decodes' single tokens among them.
    Decode: their number and mean context.
    """

    serial_ns_per_token = 0.0

    def __init__(self, table: AdditiveAttention) -> None:
        self._prefill = _StepTable(table.prefill)
        self._decode = _StepTable(table.decode)
        self.ends = {
            "chunk": int(table.prefill.second[-1]),
            "chunk context": int(table.prefill.first[-1]),
            "decodes": int(table.decode.first[-1]),
            "decode context": int(table.decode.second[-1]),
        }

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int) -> float:
        """See `AttentionTimes`."""
        squares = sum(new * new for new, _ in prefills) + decodes
        chunk = round(sqrt(squares))
        return self._prefill.at(sum(context for _, context in prefills), chunk) + self.decode_ns(decodes, kv_tokens)

    def decode_ns(self, decodes: int, kv_tokens: int) -> float:
        """See `AttentionTimes`."""
        return self._decode.at(decodes, kv_tokens / decodes) if decodes else 0.0

    def decode_run_ns(self, decodes: int, kv_tokens: int, count: int) -> Sequence[float]:
        """See `AttentionTimes`."""
        return [self.decode_ns(decodes, kv_tokens + i * decodes) for i in range(count)]


class _StepTable:
    """A table over two axes, read at the sample at or above each argument (the last beyond the end)."""

    def __init__(self, grid: Grid) -> None:
        self._first: list[int] = grid.first.tolist()
        self._second: list[int] = grid.second.tolist()
        self._times: list[list[float]] = grid.time_ns.tolist()

    def at(self, first: float, second: float) -> float:
        return self._times[_at_or_above(self._first, first)][_at_or_above(self._second, second)]


def _at_or_above(axis: list[int], value: float) -> int:
    return min(bisect_left(axis, value), len(axis) - 1)


def lss_attention(table: JointAttention | AdditiveAttention) -> AttentionTimes:
    """Return the times of an attention table, interpolated as LLMServingSim does."""
    return LssJointTimes(table) if isinstance(table, JointAttention) else LssAdditiveTimes(table)
