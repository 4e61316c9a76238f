"""LLMServingSim's data-parallel waves (``--mode lss``): members of a group wait for each other and are padded."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.step.base import StepShape
from servetwin.step.plans.base import RankModel, StageTime, execution_plans

DUMMY = StepShape(1, 1, (), 1, 1)
"""An idle member's batch: one token of one decode with a context of 1."""


@execution_plans.register("lss_waves")
class LssWaves:
    """All members start together, each with as many tokens as the largest batch, and the slowest ends the wave.

    What a member lacks is counted as further decodes: layers over tokens and over sequences compute them, attention
    does not. It holds for dense models too, whose members real servers run independently.

    Parameters
    ----------
    stages
        The rank model of each pipeline stage.
    num_ranks
        Members of the group.
    """

    def __init__(self, stages: Sequence[RankModel], num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.num_stages = len(stages)
        self.needs = frozenset[str]().union(*(stage.needs for stage in stages))
        self._stages = stages

    @property
    def notices(self) -> list[str]:
        """What the stages say."""
        return list(dict.fromkeys(notice for stage in self._stages for notice in stage.notices))

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """See `ExecutionPlan`."""
        batches = [shape or DUMMY for shape in shapes]
        most = max(shape.num_tokens for shape in batches)
        sequences = [shape.num_sequences + most - shape.num_tokens for shape in batches]
        draw = max(shape.draw for shape in batches)
        times = []
        for stage in self._stages:
            own_ns = max(stage.own_ns(*batch) for batch in zip(batches, [most] * len(batches), sequences, strict=True))
            busy_ns = own_ns + stage.shared_ns([most] * len(batches), draw)
            times.append(StageTime(round(busy_ns) or 1, round(stage.send_ns(most))))
        return times
