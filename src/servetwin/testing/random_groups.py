"""Random small scenarios with lockstep groups and pipelines, some ranks of which never get a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from servetwin.cluster.base import ClusterView, InstanceSpec, RequestView, Router
from servetwin.engine.base import EngineSettings, Scheduler, schedulers
from servetwin.step.plans.base import ExecutionPlan
from servetwin.testing.group_plans import SlowestRankPlan, SpreadPlan
from servetwin.testing.random_scenarios import RandomScenario, SpreadStepModel, random_scenario

MOST_INSTANCES = 9


class AvoidingRouter:
    """Another router that is offered some instances only where there are no others.

    Parameters
    ----------
    router
        It chooses among the rest.
    avoided
        Numbers of the instances to keep idle.
    """

    def __init__(self, router: Router, avoided: frozenset[int]) -> None:
        self.reads = router.reads
        self._router = router
        self._avoided = avoided

    def choose(self, request: RequestView, view: ClusterView, candidates: NDArray[np.int64]) -> int:
        """Return the other router's choice."""
        rest = [number for number in candidates.tolist() if number not in self._avoided]
        return self._router.choose(request, view, np.array(rest, dtype=np.int64) if rest else candidates)


def random_group_scenario(seed: int) -> RandomScenario:
    """Return the random scenario number ``seed`` with some of its instances, at least one, made groups."""
    scenario = random_scenario(seed)
    rng = np.random.default_rng([seed, 1])
    instances: list[InstanceSpec] = []
    chosen = int(rng.integers(len(scenario.instances)))
    for number, spec in enumerate(scenario.instances):
        room = MOST_INSTANCES - len(instances) - (len(scenario.instances) - number - 1)
        if number == chosen or rng.random() < 0.4:
            instances += random_group(rng, spec, number, room)
        else:
            instances.append(_plain(rng, spec))
    named = [replace(spec, name=f"pool-{number}") for number, spec in enumerate(instances)]
    make_router = _make_router(rng, scenario.make_router, named)
    return replace(scenario, instances=named, make_router=make_router)


def _make_router(
    rng: np.random.Generator, make: Callable[[], Router], instances: list[InstanceSpec]
) -> Callable[[], Router]:
    """Keep up to three instances idle, in half of the scenarios."""
    if rng.random() < 0.5:
        return make
    count = min(int(rng.integers(1, 4)), len(instances) - 1)
    avoided = frozenset(rng.choice(len(instances), size=count, replace=False).tolist())
    return lambda: AvoidingRouter(make(), avoided)


def _plain(rng: np.random.Generator, spec: InstanceSpec) -> InstanceSpec:
    if rng.random() < 0.7:
        return spec
    return replace(spec, step_model=SpreadStepModel(1, extremes=bool(rng.random() < 0.3), draws=True))


def random_group(
    rng: np.random.Generator, spec: InstanceSpec, number: int, room: int, *, idle_model: bool = True
) -> list[InstanceSpec]:
    """Return the ranks of a group that is like an instance.

    Parameters
    ----------
    room
        Most ranks.
    idle_model
        Whether now and then only the first rank gets all requests.
    """
    num_ranks = min(int(rng.choice([1, 1, 2, 3, 4])), room)
    plan = random_plan(rng, num_ranks, int(rng.choice([1, 2, 2, 3, 4])))
    group = number if num_ranks > 1 or rng.random() < 0.5 else -1
    rank = replace(
        spec,
        settings=_settings(rng, spec.settings),
        scheduler=_scheduler(spec.scheduler),
        step_model=None if rng.random() < 0.5 else spec.step_model,
        plan=plan,
        group=group,
    )
    serves_another = idle_model and spec.model is None and rng.random() < 0.1
    return [replace(rank, model="c") if serves_another and i else rank for i in range(num_ranks)]


def _settings(rng: np.random.Generator, settings: EngineSettings) -> EngineSettings:
    """Return an instance's settings as they are possible in a group, with smaller chunks now and then."""
    changed = replace(settings, async_scheduling=False, overlap_chunks=bool(rng.random() < 0.7))
    if settings.enable_chunked_prefill and rng.random() < 0.4:
        return replace(changed, max_num_batched_tokens=int(rng.choice([2, 4, 6])))
    return changed


def _scheduler(scheduler: Scheduler) -> Scheduler:
    return scheduler if type(scheduler).__name__ in ("VllmScheduler", "OrcaScheduler") else schedulers.get("orca")()


def random_plan(rng: np.random.Generator, num_ranks: int, num_stages: int) -> ExecutionPlan:
    """Return a plan whose times are drawn, or follow from everything in a batch."""
    if rng.random() < 0.4:
        base, per_token, send = (rng.integers(low, 12, size=num_stages).tolist() for low in (1, 0, 0))
        return SlowestRankPlan(num_ranks, base, per_token, send)
    needs = [name for name in ("kv_extremes", "draw") if rng.random() < 0.4]
    return SpreadPlan(num_ranks, num_stages, int(rng.choice([1, 1, 10])), frozenset(needs))
