"""What limits a deployment: deployments in which it is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from servetwin.cluster.base import InstanceSpec, SimulationOutcome, routers
from servetwin.cluster.simulation import simulate
from servetwin.engine.base import EngineSettings, InstanceLog, RequestLog, orderings, schedulers
from servetwin.metrics.limits import what_limits
from servetwin.metrics.options import MetricOptions
from servetwin.metrics.records import Records
from servetwin.step.base import StepModelBase, StepShape
from servetwin.workload.base import Workload


class Affine(StepModelBase):
    """A step takes a millisecond and a microsecond per token."""

    def breakdown_ns(self, shape: StepShape) -> dict[str, float]:
        """Return two parts."""
        return {"weights": 1e6, "tokens": 1e3 * shape.num_tokens}


class Bound(Affine):
    """The same, telling what bounds it."""

    def bound_by(self, shape: StepShape) -> str:
        """Return a phrase with the number of decoding requests."""
        return f"weights for {shape.num_decodes}"


def run(
    every_ns: int, *, step_model: StepModelBase | None = None, kind: str = "vllm", **limits: int
) -> SimulationOutcome:
    """Return a run of 200 equal requests (100 in, 20 out) that arrive at a fixed distance."""
    settings = replace(EngineSettings(num_blocks=4_000, max_model_len=400), **limits)  # type: ignore[arg-type]
    scheduler, ordering = schedulers.get(kind)(), orderings.get("fcfs")()
    spec = InstanceSpec("i-0", "i", "d", None, settings, scheduler, ordering, step_model or Affine())
    arrivals = np.arange(200, dtype=np.int64) * every_ns
    workload = Workload(arrivals, np.full(200, 100), np.full(200, 20))
    return simulate(workload, [spec], routers.get("round_robin")(seed=0))


def limit(outcome: SimulationOutcome, **options: object) -> tuple[str, str]:
    """Return kind and sentence."""
    return what_limits(Records(outcome, MetricOptions(**options)))  # type: ignore[arg-type]


def test_sequences_are_the_limit_when_two_may_run_at_once() -> None:
    """With two seats and a burst of requests, the setting and its value are named."""
    kind, sentence = limit(run(1_000, max_num_seqs=2))
    assert kind == "max_num_seqs"
    assert "max_num_seqs (2)" in sentence


def test_the_budget_is_the_limit_when_prompts_fill_every_step() -> None:
    """With a budget of one prompt per step and seats for all, the budget is named."""
    kind, sentence = limit(run(1_000, max_num_batched_tokens=256, max_num_seqs=256))
    assert kind == "max_num_batched_tokens"
    assert "(256)" in sentence


@pytest.mark.parametrize("blocks", [40, 60])
def test_blocks_are_the_limit_when_few_prompts_fit(blocks: int) -> None:
    """With blocks for a handful of requests, and seats for all, the KV cache is named."""
    kind, sentence = limit(run(1_000, num_blocks=blocks))
    assert kind == "kv_blocks"
    assert "KV blocks run out" in sentence


def test_scheduling_is_the_limit_of_static_batches() -> None:
    """When a batch has seats and blocks left but runs to its end, the scheduler is named."""
    kind, _ = limit(run(5_000_000, kind="static"))
    assert kind == "scheduling"


def test_a_trickle_is_little_load() -> None:
    """When every request is alone, the deployment is under-loaded, and the largest part of a step is named."""
    kind, sentence = limit(run(100_000_000))
    assert kind == "load"
    assert "weights is 100% of a typical step" in sentence


def test_a_missed_objective_makes_the_step_time_the_limit() -> None:
    """Without a queue, and with an objective that no step can meet, the step time is named, and its bound."""
    outcome = run(100_000_000, step_model=Bound())
    kind, sentence = limit(outcome, slo={"tpot_s": 0.0005})
    assert kind == "step_time"
    assert "a typical step is bound by weights for 1" in sentence


def test_nothing_completed() -> None:
    """A run in which nothing completed has no other limit."""
    outcome = run(1_000)
    empty = SimulationOutcome(outcome.workload, outcome.instances, RequestLog.of_size(200), [InstanceLog()])
    assert limit(empty)[0] == "nothing_completed"
