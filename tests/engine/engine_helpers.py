"""Short ways to run a few requests on one instance with steps of ten nanoseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servetwin.cluster import routers as _routers  # noqa: F401 (fills the registry)
from servetwin.cluster.base import InstanceSpec, SimulationOutcome, routers
from servetwin.cluster.simulation import simulate
from servetwin.engine import orderings as _orderings  # noqa: F401
from servetwin.engine import schedulers as _schedulers  # noqa: F401
from servetwin.engine.base import EngineSettings, orderings, schedulers
from servetwin.step.base import StepModel
from servetwin.step.fixed import FixedLatency
from servetwin.testing.equality import differences, token_times
from servetwin.testing.random_scenarios import ListedTokens
from servetwin.testing.stepwise import simulate_stepwise
from servetwin.workload.base import Workload

STEP_NS = 10


def instance(
    *, scheduler: str = "vllm", ordering: str = "fcfs", step_model: StepModel | None = None, **settings: int | bool
) -> InstanceSpec:
    """Return an instance; without further settings it has room for everything."""
    defaults: dict[str, int | bool] = {"num_blocks": 1000, "max_model_len": 10_000, "block_size": 4}
    defaults["enable_prefix_caching"] = False
    return InstanceSpec(
        name="pool-0",
        pool="pool",
        device="none",
        model=None,
        settings=EngineSettings(**(defaults | settings)),  # type: ignore[arg-type]
        scheduler=schedulers.get(scheduler)(),
        ordering=orderings.get(ordering)(),
        step_model=step_model or FixedLatency(step_ns=STEP_NS),
    )


def requests(
    *rows: tuple[int, int, int], priority: Sequence[int] | None = None, tokens: Sequence[Sequence[int]] | None = None
) -> Workload:
    """Return a workload of (arrival, prompt, output) rows."""
    arrival, prompt, output = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    workload = Workload(arrival, prompt, output)
    workload.priority = np.array(priority, dtype=np.int64) if priority is not None else None
    workload.contents = ListedTokens(tokens) if tokens is not None else None
    return workload


def run(workload: Workload, *instances: InstanceSpec, router: str = "round_robin") -> SimulationOutcome:
    """Run both engines, assert that they agree, and return the fast one's outcome."""
    outcome = simulate(workload, instances, routers.get(router)(seed=1), check_invariants=True)
    slow = simulate_stepwise(workload, instances, routers.get(router)(seed=1))
    assert differences(outcome, slow) == []
    return outcome


def steps_of(outcome: SimulationOutcome) -> list[list[int]]:
    """Return each request's token times in steps (of ten nanoseconds)."""
    return [[t // STEP_NS for t in times] for times in token_times(outcome)]
