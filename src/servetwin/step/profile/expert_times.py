"""Times of one layer's routed experts on ranks that hold a part of them: the contract, and the tables as physics."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np

from servetwin.step.profile.grids import Floats, base_index, fill, isotonic, monotone
from servetwin.step.profile.monotone_curve import MonotoneCurve
from servetwin.step.profile.options import ExpertSizes
from servetwin.step.profile.tables import Curve, ExpertBlock, SingleExpert


class ExpertTimes(Protocol):
    """The time of one layer's routed experts, in nanoseconds."""

    last_pairs: int
    """Greatest measured (token, expert) pairs."""

    def ranks_ns(self, slots: Floats, pairs: Floats, experts: Floats, shards: int) -> Floats:
        """Return each rank's time, shape ``(ranks,)``.

        Parameters
        ----------
        slots
            Rows of the kernels' buffers: ``top_k`` for each token that the rank is given, computed here or not.
        pairs, experts
            Those that it computes, and the distinct experts that it reads for them.
        shards
            Ranks that divide each expert among them.
        """
        ...

    def router_ns(self, tokens: int) -> float:
        """Return the router's time on a rank's own tokens; 0 where the experts' times hold it."""
        ...


class _Traffic:
    """What an expert's kernels move besides its weights, at the bandwidth at which the table reads weights.

    vLLM's fused kernels (0.19, ``fused_moe.py``) keep buffers of ``top_k`` rows per token on every rank: where an
    expert lies elsewhere they write zeros (``2 I + h`` elements), and the activation (``3 I``) and the sum over the
    experts (``h``) pass over these too. An expert divided among ranks writes and sums its whole output on each.
    """

    def __init__(self, sizes: ExpertSizes, weight_ns: float) -> None:
        weights = 3 * sizes.hidden_size * sizes.intermediate_size
        self._ns_per_element = weight_ns / weights
        self._hidden, self._width = sizes.hidden_size, sizes.intermediate_size

    def foreign_ns(self, slots: Floats, pairs: Floats, shards: int) -> Floats:
        """Return the time of rows whose experts lie elsewhere."""
        per_row = (2 * self._hidden + 5 * self._width / shards) * self._ns_per_element
        return np.maximum(0.0, slots - pairs) * per_row

    def undivided_ns(self, pairs: Floats, shards: int) -> Floats:
        """Return the time of outputs that dividing an expert among ranks does not divide."""
        return pairs * (2 * self._hidden * self._ns_per_element * (1 - 1 / shards))


class BlockTimes:
    """From a table of whole blocks over (pairs, activated experts).

    Linear in both, never falling in either. At equal pairs one expert less saves at most what reading its weights
    takes (``weight_ns``, the table's median step at the fewest tokens, or that of the column if it is more): rows that
    are faster were measured with weights that the cache held, which a model of many layers never finds there. So no
    time is below activated x ``weight_ns``. Beyond the most pairs a row goes on along its own slope, at least at the
    pace of the rows with fewer experts.

    An expert divided among ``shards`` ranks takes ``fixed + (time - fixed) / shards`` and its undivided output, with
    ``fixed`` what the block takes at no expert: router, sorting, starts of kernels.
    """

    def __init__(self, table: ExpertBlock, sizes: ExpertSizes) -> None:
        activated, values, pairs = _grid(table, sizes.top_k)
        self.weight_ns = _weight_ns(activated, values)
        read_ns = np.maximum(self.weight_ns, _steps(activated, values))
        for row in range(len(activated) - 2, -1, -1):
            values[row] = np.maximum(values[row], values[row + 1] - (activated[row + 1] - activated[row]) * read_ns)
        none = np.maximum(values[0] - activated[0] * self.weight_ns, 0.0)
        self._activated = np.concatenate([[0.0], activated])
        floor = self._activated[:, None] * self.weight_ns
        self._values = np.maximum(monotone(np.vstack([none, values])), floor)
        self._pairs = pairs
        self._fixed = float(self._values[0, 0])
        base = base_index(pairs)
        rise = (self._values[:, -1] - self._values[:, base]) / max(1.0, pairs[-1] - pairs[base])
        self._slopes = np.maximum.accumulate(rise)
        self._traffic = _Traffic(sizes, self.weight_ns)
        self.last_pairs = int(pairs[-1])

    def at(self, pairs: Floats, experts: Floats) -> Floats:
        """Return the times of undivided experts, shape ``(n,)``."""
        rows = np.array([np.interp(pairs, self._pairs, row) for row in self._values])
        rows += self._slopes[:, None] * np.maximum(0.0, pairs - self._pairs[-1])
        axis = self._activated
        low = np.clip(np.searchsorted(axis, experts, side="right") - 1, 0, len(axis) - 2)
        part = (experts - axis[low]) / (axis[low + 1] - axis[low])
        at = np.arange(len(pairs))
        first = rows[low, at]
        return np.asarray(first + part * (rows[low + 1, at] - first))

    def ranks_ns(self, slots: Floats, pairs: Floats, experts: Floats, shards: int) -> Floats:
        """See `ExpertTimes`."""
        divided = (self.at(pairs, experts) - self._fixed) / shards
        foreign = self._traffic.foreign_ns(slots, pairs, shards)
        return self._fixed + divided + foreign + self._traffic.undivided_ns(pairs, shards)

    def router_ns(self, tokens: int) -> float:
        """Return 0: the block's times hold the router."""
        return 0.0


def _grid(table: ExpertBlock, top_k: int) -> tuple[Floats, Floats, Floats]:
    """Return (activated, times over (activated, pairs), pairs), complete: a row holds below its first tokens."""
    activated, rows = np.unique(table.activated, return_inverse=True)
    tokens, columns = np.unique(table.tokens, return_inverse=True)
    values = np.full((len(activated), len(tokens)), np.nan)
    values[rows, columns] = table.time_ns
    for row in values:
        first = int(np.argmax(~np.isnan(row)))
        row[:first] = row[first]
    complete = fill(values, [activated, tokens], order=(1, 0))
    return activated.astype(np.float64), complete, (tokens * top_k).astype(np.float64)


def _weight_ns(activated: Floats, values: Floats) -> float:
    """Return what one more expert's weights take to read: the median step between rows at the fewest tokens."""
    return float(_steps(activated, isotonic(values, 0))[0]) or float(values[-1, 0] / activated[-1])


def _steps(activated: Floats, values: Floats) -> Floats:
    """Return the median step per expert between rows, for each column; 0 for a single row."""
    if len(activated) < 2:
        return np.zeros(values.shape[1])
    return np.asarray(np.median(np.diff(values, axis=0) / np.diff(activated)[:, None], axis=0))


class SingleTimes:
    """From the times of one expert over its tokens: activated experts, each at the mean of its pairs.

    The time per token of an expert never rises with its tokens (its weights are read once), so that neither more pairs
    nor more experts ever take less time. Divided among ranks an expert takes its part, and its undivided output.
    """

    def __init__(self, table: SingleExpert, sizes: ExpertSizes) -> None:
        counts = table.expert.counts.astype(np.float64)
        times = isotonic(table.expert.time_ns, 0)
        per_token = np.maximum.accumulate((times / counts)[::-1])[::-1]
        self._counts, self._times = counts, counts * per_token
        self._slope = min(MonotoneCurve(Curve(table.expert.counts, self._times)).slope, float(per_token[-1]))
        self._activation = MonotoneCurve(table.activation)
        self._router = MonotoneCurve(table.router)
        self._traffic = _Traffic(sizes, float(self._times[0]))
        self.last_pairs = int(counts[-1]) * sizes.num_experts

    def ranks_ns(self, slots: Floats, pairs: Floats, experts: Floats, shards: int) -> Floats:
        """See `ExpertTimes`."""
        mean = np.maximum(1.0, pairs / np.maximum(experts, 1e-9))
        one = np.interp(mean, self._counts, self._times) + self._slope * np.maximum(0.0, mean - self._counts[-1])
        rows = pairs / shards
        activation = np.array([self._activation(count) for count in rows.tolist()])
        foreign = self._traffic.foreign_ns(slots, pairs, shards)
        time: Floats = experts * one / shards + activation + foreign + self._traffic.undivided_ns(pairs, shards)
        return time

    def router_ns(self, tokens: int) -> float:
        """See `ExpertTimes`."""
        return self._router(tokens)


@lru_cache(maxsize=16)
def measured_experts(table: ExpertBlock | SingleExpert, sizes: ExpertSizes) -> ExpertTimes:
    """Return the times of a table of experts, interpolated as physics has it; the same for the same table."""
    return BlockTimes(table, sizes) if isinstance(table, ExpertBlock) else SingleTimes(table, sizes)
