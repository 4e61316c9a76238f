"""LLMServingSim's data-parallel waves (``--mode lss``): members of a group wait for each other and are padded."""

from __future__ import annotations

from collections.abc import Sequence

from servetwin.core.errors import InputError
from servetwin.step.base import StepShape
from servetwin.step.plans.base import MemberTimes, RankModel, StageTime, execution_plans

DUMMY = StepShape(1, 1, (), 1, 1)
"""An idle member's batch: one token of one decode with a context of 1."""


@execution_plans.register("lss_waves")
class LssWaves:
    """All members start together, each with as many tokens as the largest batch.

    What a member lacks is counted as further decodes: layers over tokens and over sequences compute them, attention
    does not. It holds for dense models too, whose members real servers run independently.

    Parameters
    ----------
    stages
        The rank model of each pipeline stage.
    num_ranks
        Members of the group.
    late_members_join_idle
        Whether a member that cannot schedule at once when another one has scheduled its next batch joins that wave with
        an idle batch, so that members run by turns. LLMServingSim does so in pipelines, and where a model with experts
        has several accelerators per member. False: it joins when its batch has ended, with what it has.
    lead_ns
        How long before the slowest a member can end: a link's latency, where they exchange tokens for experts in each
        layer. None: they only start together.
    """

    def __init__(
        self,
        stages: Sequence[RankModel],
        num_ranks: int,
        late_members_join_idle: bool = False,
        lead_ns: int | None = None,
    ) -> None:
        if lead_ns is not None and lead_ns < 0:
            raise InputError(f"lead_ns is {lead_ns}; a duration of 0 or more is needed")
        self.num_ranks = num_ranks
        self.num_stages = len(stages)
        self.needs = frozenset[str]().union(*(stage.needs for stage in stages))
        self.late_members_join_idle = late_members_join_idle
        self.lead_ns = lead_ns
        self._stages = stages

    @property
    def notices(self) -> list[str]:
        """What the stages say."""
        return list(dict.fromkeys(notice for stage in self._stages for notice in stage.notices))

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """See `ExecutionPlan`."""
        return [StageTime(max(times.busy_ns), times.send_ns) for times in self.member_times_ns(shapes)]

    def member_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[MemberTimes]:
        """See `MemberPlan`."""
        batches = [shape or DUMMY for shape in shapes]
        most = max(shape.num_tokens for shape in batches)
        sequences = [shape.num_sequences + most - shape.num_tokens for shape in batches]
        draw = max(shape.draw for shape in batches)
        times = []
        for stage in self._stages:
            shared_ns = stage.shared_ns([most] * len(batches), draw)
            own_ns = map(stage.own_ns, batches, [most] * len(batches), sequences)
            busy_ns = [round(own + shared_ns) or 1 for own in own_ns]
            times.append(MemberTimes(busy_ns, round(stage.send_ns(most))))
        return times
