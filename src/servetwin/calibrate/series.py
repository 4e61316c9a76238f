"""Token series: cumulative curves, times at which a share of the tokens is out, and WAPE in equal bins."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


class TokenCurve:
    """Tokens put out until each moment: piecewise linear, 0 before its first point.

    Parameters
    ----------
    time_s
        Moments, ascending, shape ``(n,)``.
    tokens
        Tokens put out until each of them, never falling, shape ``(n,)``.
    """

    def __init__(self, time_s: ArrayLike, tokens: ArrayLike) -> None:
        self.time_s: NDArray[np.float64] = np.asarray(time_s, dtype=np.float64)
        self.tokens: NDArray[np.float64] = np.asarray(tokens, dtype=np.float64)

    @classmethod
    def from_rates(cls, end_s: ArrayLike, tokens_per_s: ArrayLike) -> TokenCurve:
        """Return the curve of a series of rates, each over the bucket that ends at ``end_s``."""
        ends = np.asarray(end_s, dtype=np.float64)
        widths = np.diff(ends, prepend=ends[0] - (ends[1] - ends[0] if len(ends) > 1 else 1.0))
        counts = np.cumsum(np.asarray(tokens_per_s, dtype=np.float64) * widths)
        return cls(np.concatenate(([ends[0] - widths[0]], ends)), np.concatenate(([0.0], counts)))

    @classmethod
    def from_token_times(cls, time_s: ArrayLike, bucket_s: float = 1.0) -> TokenCurve:
        """Return the curve of single tokens as a meter with buckets of ``bucket_s`` would see it."""
        times = np.sort(np.asarray(time_s, dtype=np.float64))
        edges = np.arange(0.0, times[-1] + 2 * bucket_s, bucket_s)
        return cls(edges, np.searchsorted(times, edges, side="right"))

    @property
    def total(self) -> float:
        """Tokens in all."""
        return float(self.tokens[-1])

    def shifted(self, later_s: float) -> TokenCurve:
        """Return the curve ``later_s`` later (earlier if negative)."""
        return TokenCurve(self.time_s + later_s, self.tokens)

    def time_of_share(self, share: float) -> float:
        """Return the moment at which ``share`` (above 0, at most 1) of the tokens is out."""
        goal = share * self.total
        i = int(np.searchsorted(self.tokens, goal, side="left"))
        if i == 0:
            return float(self.time_s[0])
        low, high = self.tokens[i - 1], self.tokens[i]
        return float(self.time_s[i - 1] + (goal - low) / (high - low) * (self.time_s[i] - self.time_s[i - 1]))

    def until(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Return the tokens put out until each of ``time_s``."""
        return np.interp(np.asarray(time_s, dtype=np.float64), self.time_s, self.tokens, left=0.0)


def binned_wape(measured: TokenCurve, simulated: TokenCurve, bin_s: float, *, normalised: bool = False) -> float:
    """Return the sum of absolute differences per bin over the sum of measured.

    Parameters
    ----------
    bin_s
        Width of the bins; they start at time 0.
    normalised
        Divide each series by its own total first, which takes off tokens that the measurement lost.
    """
    end = max(measured.time_s[-1], simulated.time_s[-1])
    edges = np.arange(0.0, end + bin_s, bin_s)
    real, model = np.diff(measured.until(edges)), np.diff(simulated.until(edges))
    if normalised:
        real, model = real / measured.total, model / simulated.total
    return wape(real, model)


def wape(measured: ArrayLike, simulated: ArrayLike) -> float:
    """Return the weighted absolute percentage error of equally long series, as a fraction."""
    real = np.asarray(measured, dtype=np.float64)
    return float(np.abs(real - np.asarray(simulated, dtype=np.float64)).sum() / np.abs(real).sum())
