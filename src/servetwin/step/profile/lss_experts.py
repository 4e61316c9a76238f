"""Routed experts as LLMServingSim looks them up (``interpolation: lss``)."""

from __future__ import annotations

import numpy as np

from servetwin.step.profile.grids import Floats
from servetwin.step.profile.lss_lookup import LssCurve, bracket
from servetwin.step.profile.tables import ExpertBlock, SingleExpert


class LssBlock:
    """A table of whole blocks over (activated experts, tokens): rows start at different tokens and hold below them."""

    def __init__(self, table: ExpertBlock) -> None:
        activated = np.unique(table.activated)
        self._activated: list[int] = activated.tolist()
        self._rows = [_row(table, count) for count in self._activated]

    def at(self, tokens: int, activated: int) -> int:
        """Return the time of a block, in whole nanoseconds."""
        low, high, t = bracket(self._activated, activated)
        first = self._at(low, max(1, tokens))
        return max(1, int(first + t * (self._at(high, max(1, tokens)) - first)))

    def _at(self, row: int, tokens: int) -> float:
        counts, times = self._rows[row]
        low, high, t = bracket(counts, tokens)
        return times[low] + t * (times[high] - times[low])

    def slowest_ns(self, tokens: Floats, pairs: Floats, experts: Floats) -> float:
        """Return the slowest rank's time."""
        cells = {(round(t), round(a)) for t, a in zip(tokens.tolist(), experts.tolist(), strict=True)}
        return max(self.at(*cell) for cell in sorted(cells))

    def router_ns(self, tokens: int) -> float:
        """Return 0: the block's times hold the router."""
        return 0.0


def _row(table: ExpertBlock, activated: int) -> tuple[list[int], list[float]]:
    rows = np.flatnonzero(table.activated == activated)
    rows = rows[np.argsort(table.tokens[rows])]
    return table.tokens[rows].tolist(), table.time_ns[rows].tolist()


class LssSingle:
    """One expert's matrices at its token count, one expert after the other (the older branch)."""

    def __init__(self, table: SingleExpert) -> None:
        self._expert, self._router = LssCurve(table.expert), LssCurve(table.router)

    def slowest_ns(self, tokens: Floats, pairs: Floats, experts: Floats) -> float:
        """Return the slowest rank's time."""
        loads = zip(pairs.tolist(), experts.tolist(), strict=True)
        return max(float(count * self._expert(max(1, round(pair / max(1, count))))) for pair, count in loads)

    def router_ns(self, tokens: int) -> float:
        """Return the router's time."""
        return self._router(max(1, tokens))


def lss_experts(table: ExpertBlock | SingleExpert) -> LssBlock | LssSingle:
    """Return the times of a table of experts, as LLMServingSim has them."""
    return LssBlock(table) if isinstance(table, ExpertBlock) else LssSingle(table)
