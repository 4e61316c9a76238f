"""What random instances' steps take of the links over which KV travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from servetwin.cluster.base import InstanceSpec
from servetwin.core.units import NS_PER_S
from servetwin.step.base import StepModel, StepShape
from servetwin.step.link_share import LinkTime
from servetwin.step.plans.base import StageTime


def random_link_times(rng: np.random.Generator, instances: Sequence[InstanceSpec]) -> list[LinkTime | None]:
    """Return what collectives and loads of some instances take of their ports: a part of each step."""
    by_timing: dict[int, LinkTime | None] = {}
    for spec in instances:
        timing = spec.timing
        if id(timing) in by_timing:
            continue
        collectives, loads, exposed = (float(rng.choice([0.0, 0.1, 0.5, 1.0])) for _ in range(3))
        by_timing[id(timing)] = None
        if spec.plan is None:
            by_timing[id(timing)] = LinkTime(
                cast(StepModel, _Other(timing, 1.0, loads)),
                _slower(timing, collectives) if collectives else None,
                _slower(timing, min(loads, exposed)) if loads else None,
                link_bytes_per_s=NS_PER_S * (2 if exposed == 0.5 else 1),
                memory_bytes_per_s={"memory": NS_PER_S},
            )
        elif collectives and spec.plan.num_stages == 1:
            by_timing[id(timing)] = LinkTime(timing, _slower(timing, collectives))
    return [by_timing[id(spec.timing)] for spec in instances]


def _slower(timing: Any, by: float) -> StepModel:
    return cast(StepModel, _Other(timing, 1.0 + by, 0.0))


class _Other:
    """The same times, so many times as long, and a part of them for loads."""

    def __init__(self, timing: Any, times: float, loads: float) -> None:
        self._timing, self._times, self._loads = timing, times, loads
        if hasattr(timing, "stage_times_ns"):
            self.stage_times_ns = self._stages

    def _stages(self, shapes: Sequence[StepShape | None]) -> list[StageTime]:
        return [StageTime(round(t[0] * self._times), t[1]) for t in self._timing.stage_times_ns(shapes)]

    def duration_ns(self, shape: StepShape) -> int:
        """Return the time of a step."""
        duration_ns: int = self._timing.duration_ns(shape)
        return round(duration_ns * self._times)

    def loaded_bytes(self, shape: StepShape) -> Mapping[str, float]:
        """Return its loads: a byte comes each nanosecond."""
        return {"memory": self.duration_ns(shape) * self._loads}
