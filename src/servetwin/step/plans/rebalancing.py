"""A plan whose experts move between accelerators now and then: what that costs, on top of another plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from servetwin.step.base import StepShape
from servetwin.step.experts.trace import STEP_BITS
from servetwin.step.plans.base import ExecutionPlan, StageTime


class Rebalancing:
    """Adds the time in which experts' weights are fetched to the batch that is due for it.

    Mirrors vLLM 0.19 (``EplbState.rearrange``): all ranks stop, each fetches the experts that it did not have, layer by
    layer; the slowest decides. Only recorded routings (`TraceRouting`) change popularity, so only they move experts.

    Parameters
    ----------
    plan
        What the rest takes.
    received_at
        Experts' weights that the busiest rank fetches before a step, all layers together: a function of the step.
    expert_bytes
        Of one expert in one layer, on one rank.
    send_ns
        What it takes to send so many bytes from rank to rank.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        received_at: Callable[[int], int],
        expert_bytes: int,
        send_ns: Callable[[float], float],
    ) -> None:
        self.plan = plan
        self._received_at = received_at
        self._expert_bytes = expert_bytes
        self._send_ns = send_ns
        self.num_ranks, self.num_stages = plan.num_ranks, plan.num_stages
        self.needs = plan.needs | {"draw"}

    @property
    def notices(self) -> list[str]:
        """What the plan says."""
        return self.plan.notices

    def moving_ns(self, step: int) -> int:
        """Return how long experts are moved before a step, in whole nanoseconds."""
        received = self._received_at(step)
        return round(self._send_ns(received * self._expert_bytes)) if received else 0

    def stage_times_ns(self, shapes: Sequence[StepShape | None]) -> Sequence[StageTime]:
        """See `ExecutionPlan`; stages move their own layers' experts, all at once."""
        times = self.plan.stage_times_ns(shapes)
        step = max(shape.draw for shape in shapes if shape is not None) % 2**STEP_BITS
        moving_ns = self.moving_ns(step) // self.num_stages
        if not moving_ns:
            return times
        return [StageTime(time.busy_ns + moving_ns, time.send_ns) for time in times]
