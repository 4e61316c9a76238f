"""The plan of a pipeline: the stages of one replica, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.core.errors import InputError
from servetwin.step.base import StepShape
from servetwin.step.plans.base import RankModel, StageTime, execution_plans


@execution_plans.register("pipeline")
class Pipeline:
    """Each stage computes its layers of a batch and sends the activations on.

    Stages work on different batches at the same time. Mirrors vLLM 0.19 (``EngineCore.step_with_batch_queue``): as many
    batches in flight as there are stages.

    Raises
    ------
    InputError
        If there is more than one rank.
    """

    def __init__(self, stages: Sequence[RankModel], num_ranks: int = 1) -> None:
        if num_ranks != 1:
            raise InputError(f"the plan 'pipeline' is for one rank, not {num_ranks}; 'lockstep' has several")
        self.num_ranks = 1
        self.num_stages = len(stages)
        self.needs = frozenset[str]().union(*(stage.needs for stage in stages))
        self._stages = stages

    @property
    def notices(self) -> list[str]:
        """What the stages say."""
        return [notice for stage in self._stages for notice in stage.notices]

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """See `ExecutionPlan`."""
        (shape,) = shapes
        if shape is None:
            raise ValueError("a batch of nothing")
        tokens, sequences = shape.num_tokens, shape.num_sequences
        return [
            StageTime(
                max(1, round(stage.own_ns(shape, tokens, sequences) + stage.shared_ns((tokens,), shape.draw))),
                round(stage.send_ns(tokens)),
            )
            for stage in self._stages
        ]
