"""Batches of unequal contexts: how much longer their attention takes than that of equal contexts with the same sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Protocol

from servetwin.step.profile.attention import AttentionTimes, Prefills
from servetwin.step.profile.tables import SerialRead, SkewTable


class SkewRule(Protocol):
    """The time of one layer's attention, from the sum of the decodes' contexts and their extremes."""

    needs: frozenset[str]
    """``"kv_extremes"`` or nothing, as in `StepModel`."""

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """Return the time in a step with at least one chunk."""
        ...

    def decode_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """Return the time in a step without chunks."""
        ...

    def decode_run_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int, count: int) -> Sequence[float]:
        """Return the times of ``count`` steps without chunks, each with one token more of context per decode."""
        ...


class NoSkew:
    """Only the sum counts."""

    needs: frozenset[str] = frozenset()

    def __init__(self, times: AttentionTimes) -> None:
        self._times = times

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """See `SkewRule`."""
        return self._times.mixed_ns(prefills, decodes, kv_tokens)

    def decode_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """See `SkewRule`."""
        return self._times.decode_ns(decodes, kv_tokens)

    def decode_run_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int, count: int) -> Sequence[float]:
        """See `SkewRule`."""
        return self._times.decode_run_ns(decodes, kv_tokens, count)


class LongestRead:
    """The longest sequence bounds the step: where kernels do not split sequences, one thread block reads all of it.

    With ``W`` the time of equal contexts (all blocks busy) and ``S = rate * longest context`` the time of that one
    block, decodes alone take ``(W**4 + S**4)**(1/4)``: the greater of the two, with a smooth turn between them, because
    near equality the long block is still reading when the others run out of work. Beside a chunk the kernel never
    splits, other blocks have enough to do, and the greater one counts; a chunk shortens no step.

    Parameters
    ----------
    times
        Attention of equal contexts.
    serial
        From which batch on, and at which rate; None: never bounded.
    pad
        Sequences of a step as the server pads them (a CUDA graph of a greater batch holds that batch's kernel).
    """

    needs = frozenset({"kv_extremes"})

    def __init__(self, times: AttentionTimes, serial: SerialRead | None, pad: Callable[[int], int]) -> None:
        self._times = times
        self._rate = serial.ns_per_token if serial else 0.0
        self._mixed_rate = times.serial_ns_per_token
        most = serial.from_decodes if serial else 0
        self._from_decodes = next(n for n in range(1, most + 1) if pad(n) >= most) if serial else 2**62

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """See `SkewRule`."""
        time = self._times.mixed_ns(prefills, decodes, kv_tokens)
        if not decodes:
            return time
        if decodes < self._from_decodes:
            return max(time, self._mixed_rate * kv_max)
        return max(time, self._mixed_rate * kv_max, self.decode_ns(decodes, kv_tokens, kv_max, kv_min))

    def decode_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """See `SkewRule`."""
        equal = self._times.decode_ns(decodes, kv_tokens)
        if decodes < self._from_decodes:
            return equal
        return sqrt(sqrt(equal * equal * equal * equal + (self._rate * kv_max) ** 4))

    def decode_run_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int, count: int) -> Sequence[float]:
        """See `SkewRule`."""
        equal = self._times.decode_run_ns(decodes, kv_tokens, count)
        if decodes < self._from_decodes:
            return equal
        rate = self._rate
        longest = range(kv_max, kv_max + count)
        return [sqrt(sqrt(w * w * w * w + (rate * k) ** 4)) for w, k in zip(equal, longest, strict=True)]


class LssSkew:
    """LLMServingSim's correction: a share ``alpha`` of the way from the mean context's time to the longest's.

    ``alpha`` comes from a fitted table, by the chunk (only profiled sizes are found, all others get the default), the
    number of decodes, where the mean stands between the extremes, the longest context and the chunk's.
    """

    needs = frozenset({"kv_extremes"})

    def __init__(self, times: AttentionTimes, table: SkewTable) -> None:
        self._times = times
        self._table = table

    def mixed_ns(self, prefills: Prefills, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """See `SkewRule`."""
        mean_ns = self._times.mixed_ns(prefills, decodes, kv_tokens)
        chunk, context = sum(new for new, _ in prefills), sum(context for _, context in prefills)
        alpha = self._alpha(chunk, context, decodes, kv_tokens, kv_max, kv_min)
        if not alpha:
            return mean_ns
        return _towards(mean_ns, self._times.mixed_ns(prefills, decodes, decodes * kv_max), alpha)

    def decode_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int) -> float:
        """See `SkewRule`."""
        mean_ns = self._times.decode_ns(decodes, kv_tokens)
        alpha = self._alpha(0, 0, decodes, kv_tokens, kv_max, kv_min)
        return _towards(mean_ns, self._times.decode_ns(decodes, decodes * kv_max), alpha) if alpha else mean_ns

    def decode_run_ns(self, decodes: int, kv_tokens: int, kv_max: int, kv_min: int, count: int) -> Sequence[float]:
        """See `SkewRule`."""
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
