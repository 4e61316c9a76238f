"""Batches of unequal contexts: how much longer their attention takes than at the mean context."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.step.profile.attention import AttentionTimes, Prefills
from servetwin.step.profile.tables import SkewTable


class LssSkew:
    """LLMServingSim's correction: a share ``alpha`` of the way from the time at the mean context to that at the longest.

    ``alpha`` comes from a fitted table, by the chunk (only profiled sizes are found, all others get the default), the
    number of decodes, where the mean stands between the extremes, the longest context and the chunk's.
    """

    def __init__(self, times: AttentionTimes, table: SkewTable) -> None:
        self._times = times
        self._table = table

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """Return the time of one layer's attention in a step with at least one chunk."""
        mean_ns = self._times.mixed_ns(prefills, decodes, kv_tokens)
        chunk, context = sum(new for new, _ in prefills), sum(context for _, context in prefills)
        alpha = self._alpha(chunk, context, decodes, kv_tokens, kv_max, kv_min)
        if not alpha:
            return mean_ns
        return _towards(mean_ns, self._times.mixed_ns(prefills, decodes, decodes * kv_max), alpha)

    def decode_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """Return the time of one layer's attention in a step without chunks."""
        mean_ns = self._times.decode_ns(decodes, kv_tokens)
        alpha = self._alpha(0, 0, decodes, kv_tokens, kv_max, kv_min)
        return _towards(mean_ns, self._times.decode_ns(decodes, decodes * kv_max), alpha) if alpha else mean_ns

    def decode_run_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int, count: int) -> Sequence[float]:
        """Return the times of ``count`` steps without chunks, each with one token more of context per decode."""
        means = self._times.decode_run_ns(decodes, kv_tokens, count)
        if decodes <= 1 or kv_tokens // decodes == kv_max:
            return means
        longest = self._times.decode_run_ns(decodes, decodes * kv_max, count)
        times: list[float] = []
        while len(times) < count:
            i = len(times)
            alpha = self._alpha(0, 0, decodes, kv_tokens + i * decodes, kv_max + i, kv_min + i)
            stop = min(count, i + self._steps_to_next_bin(kv_max + i))
            pairs = zip(means[i:stop], longest[i:stop], strict=True)
            times += [_towards(mean, most, alpha) for mean, most in pairs] if alpha else means[i:stop]
        return times

    def _steps_to_next_bin(self, kv_max: int) -> int:
        """Return after how many steps the longest context has its next label (a long time in the last bin)."""
        edges = self._table.kv_max.edges[1:-1]
        return next((int(edge) + 1 - kv_max for edge in edges if kv_max <= edge), 2**31)

    def _alpha(self, chunk: int, context: int, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        mean = kv_tokens // decodes if decodes else 0
        if decodes <= 1 or kv_max == mean:
            return 0.0
        rate = 0.5 if kv_max == kv_min else min(1.0, max(0.0, (mean - kv_min) / (kv_max - kv_min)))
        table = self._table
        rate_label, max_label = table.skew_rate.label(rate), table.kv_max.label(kv_max)
        labels = (chunk, table.n.label(decodes), rate_label, max_label, table.kv_prefill.label(context))
        return table.alpha.get(labels, table.default)


def _towards(mean_ns: float, longest_ns: float, alpha: float) -> float:
    """Return the time a share ``alpha`` of the way, in whole nanoseconds (half to even, as LLMServingSim rounds)."""
    return round(mean_ns + alpha * (longest_ns - mean_ns)) if longest_ns > mean_ns else mean_ns
