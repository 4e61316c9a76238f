"""Execution plans for tests: cheap, and with times that differ between ranks, stages and batches."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.step.base import StepShape
from servetwin.step.plans.base import StageTime
from servetwin.testing.random_scenarios import SpreadStepModel, drawn


class SlowestRankPlan:
    """Each stage takes as long as the slowest rank's tokens, and a little more than the stage before.

    Parameters
    ----------
    num_ranks, num_stages
        As of an execution plan.
    base_ns, per_token_ns, send_ns
        One entry per stage.
    """

    def __init__(
        self, num_ranks: int, base_ns: Sequence[int], per_token_ns: Sequence[int], send_ns: Sequence[int]
    ) -> None:
        self.num_ranks = num_ranks
        self.num_stages = len(base_ns)
        self.needs: frozenset[str] = frozenset()
        self.notices: list[str] = []
        self._stages = list(zip(base_ns, per_token_ns, send_ns, strict=True))

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """Return times that are affine in the most tokens that a rank has; one without work computes one token."""
        tokens = max(1 if shape is None else shape.num_tokens for shape in shapes)
        return [StageTime(base + tokens * per_token, send) for base, per_token, send in self._stages]


class SpreadPlan:
    """A plan that depends on everything of every rank's shape, so that any difference becomes one in time.

    Parameters
    ----------
    num_ranks, num_stages
        As of an execution plan.
    scale_ns
        Makes all of it slower.
    needs
        As of an execution plan.
    """

    def __init__(self, num_ranks: int, num_stages: int, scale_ns: int, needs: frozenset[str] = frozenset()) -> None:
        self.num_ranks = num_ranks
        self.num_stages = num_stages
        self.needs = needs
        self.notices: list[str] = []
        self._scale_ns = scale_ns
        self._rank_model = SpreadStepModel(1, extremes="kv_extremes" in needs, draws="draw" in needs)

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """Return times that mix all ranks' fields, differently for each stage."""
        parts = [4 if shape is None else self._rank_model.duration_ns(shape) for shape in shapes]
        mixed = sum((rank + 1) * part for rank, part in enumerate(parts))
        draw = max(shape.draw for shape in shapes if shape is not None)
        times = []
        for stage in range(self.num_stages):
            busy_ns = 1 + mixed * (1 + (stage * 2) % 3) // self.num_stages + drawn(draw + stage, 9)
            times.append(StageTime(busy_ns * self._scale_ns, (mixed * stage) % 5 * self._scale_ns))
        return times
