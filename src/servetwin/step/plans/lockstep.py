"""The plan of a lockstep group: data-parallel attention ranks that share their routed experts."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.step.base import StepShape
from servetwin.step.plans.base import RankModel, StageTime, execution_plans

DUMMY = StepShape(1, 0)
"""What an idle rank runs so that the others' collectives find it: one token, and no KV that it would read."""


@execution_plans.register("lockstep")
class Lockstep:
    """All ranks compute their own batch, padded to the largest, and meet in every layer to share the experts.

    Layers are alike, so that meeting in each is the same as meeting once: the slowest rank's own part, then the part
    they do together. An idle rank runs a dummy batch. Mirrors vLLM 0.19 (``DPEngineCoreProc``, ``execute_dummy_batch``,
    ``coordinate_batch_across_dp``).

    Parameters
    ----------
    stages
        The rank model of each pipeline stage.
    num_ranks
        Data-parallel ranks.
    pad
        Whether every rank computes as many tokens as the one that has most.
    """

    def __init__(self, stages: Sequence[RankModel], num_ranks: int, pad: bool = True) -> None:
        self.num_ranks = num_ranks
        self.num_stages = len(stages)
        self.needs = frozenset[str]().union(*(stage.needs for stage in stages))
        self._stages = stages
        self._pad = pad

    @property
    def notices(self) -> list[str]:
        """What the stages say."""
        return [notice for stage in self._stages for notice in stage.notices]

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """See `ExecutionPlan`."""
        batches = [shape or DUMMY for shape in shapes]
        tokens = [shape.num_tokens for shape in batches]
        if self._pad:
            tokens = [max(tokens)] * len(tokens)
        draw = max(shape.draw for shape in batches)
        return [
            StageTime(
                max(1, round(self._slowest_ns(stage, batches, tokens) + stage.shared_ns(tokens, draw))),
                round(stage.send_ns(max(tokens))),
            )
            for stage in self._stages
        ]

    @staticmethod
    def _slowest_ns(stage: RankModel, batches: Sequence[StepShape], tokens: Sequence[int]) -> float:
        return max(stage.own_ns(shape, rows, shape.num_sequences) for shape, rows in zip(batches, tokens, strict=True))
