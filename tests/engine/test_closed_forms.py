"""What theory says about simple cases."""

from __future__ import annotations

import numpy as np
import pytest
from engine_helpers import instance, requests, run

from servetwin.cluster.base import routers
from servetwin.cluster.simulation import simulate
from servetwin.step.affine import AffineStepModel
from servetwin.step.fixed import FixedLatency
from servetwin.testing.equality import token_times
from servetwin.workload.base import Workload


def test_one_request_alone_takes_the_sum_of_its_steps() -> None:
    """With an affine step model, every token's time is a sum that can be written down."""
    model = AffineStepModel(base_ns=100, per_token_ns=10, per_sequence_ns=5, per_kv_token_ns=1)
    outcome = run(requests((7, 6, 4)), instance(step_model=model))
    prefill = outcome.logs[0].end_ns[0] - 7
    gaps = np.diff(token_times(outcome)[0])
    assert prefill == model.duration_ns(_shape(0, 0, ((6, 0),)))
    assert gaps.tolist() == [model.duration_ns(_shape(1, context)) for context in (6, 7, 8)]


def test_waiting_time_of_a_queue_with_constant_service() -> None:
    """One seat, one step per request and Poisson arrivals make an M/D/1 queue: Wq = rho / (2 mu (1 - rho))."""
    n, service_ns, load = 200_000, 1000, 0.7
    rng = np.random.default_rng(5)
    arrival_ns = np.cumsum(rng.exponential(service_ns / load, n)).astype(np.int64)
    workload = Workload(arrival_ns, np.ones(n, dtype=np.int64), np.ones(n, dtype=np.int64))
    spec = instance(max_num_seqs=1, step_model=FixedLatency(step_ns=service_ns))
    outcome = simulate(workload, [spec], routers.get("round_robin")())
    waits = np.array(outcome.requests.first_scheduled_ns) - np.array(outcome.requests.arrival_ns)
    assert waits.mean() == pytest.approx(load * service_ns / (2 * (1 - load)), rel=0.03)


def test_scaling_all_times_by_two_scales_the_result_by_two() -> None:
    """Twice the step time and twice the gaps between arrivals give twice every token's time."""
    rng = np.random.default_rng(3)
    rows = [(int(t), int(p), int(o)) for t, p, o in rng.integers(1, 60, size=(40, 3))]
    rows.sort()
    doubled = [(2 * t, p, o) for t, p, o in rows]
    settings = {"num_blocks": 40, "max_num_seqs": 6, "max_num_batched_tokens": 32}
    once = run(requests(*rows), instance(step_model=FixedLatency(step_ns=9), **settings))
    twice = run(requests(*doubled), instance(step_model=FixedLatency(step_ns=18), **settings))
    assert [[2 * t for t in times] for times in token_times(once)] == token_times(twice)


def _shape(decodes: int, kv_tokens: int, prefills: tuple[tuple[int, int], ...] = ()):  # type: ignore[no-untyped-def]
    from servetwin.step.base import StepShape

    return StepShape(decodes, kv_tokens, prefills)
