"""Pipelines and lockstep groups: what must hold by arithmetic, and that they always end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_helpers import instance, requests
from group_helpers import ShardedRank, group, run_group, stages
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.cluster.base import routers
from servetwin.cluster.simulation import simulate
from servetwin.core.errors import InputError
from servetwin.step.fixed import FixedLatency
from servetwin.step.plans.lockstep import Lockstep
from servetwin.step.plans.pipeline import Pipeline
from servetwin.testing.equality import token_times
from servetwin.testing.group_plans import SlowestRankPlan

DEGREES = st.sampled_from([1, 2, 4])


def test_one_request_passes_all_stages_for_every_token() -> None:
    """Alone in a pipeline, each token takes the sum of the stages and of the ways between them."""
    plan = SlowestRankPlan(1, [10, 30, 20], [2, 1, 1], [5, 7, 100])
    outcome = run_group(requests((3, 6, 4)), group(plan))
    prompt_ns, decode_ns = 60 + 4 * 6 + 12, 60 + 4 + 12
    assert token_times(outcome)[0] == [3 + prompt_ns + i * decode_ns for i in range(4)]


def test_a_saturated_pipeline_is_as_fast_as_its_slowest_stage() -> None:
    """With a batch for every stage, one leaves the pipeline per time of the slowest stage."""
    plan = stages([10, 30, 20])
    outcome = run_group(requests(*[(0, 1, 20)] * 6), group(plan, max_num_batched_tokens=1))
    ends = np.diff(outcome.logs[0].end_ns)
    assert outcome.logs[0].end_ns[0] == 60
    assert set(ends.tolist()) == {30}
    assert len(ends) == 6 * 20 - 1


def test_no_more_batches_are_in_flight_than_there_are_stages() -> None:
    """A batch starts when the one that is as many before it as there are stages has ended, not earlier."""
    plan = stages([10, 10, 10])
    log = run_group(requests(*[(0, 1, 5)] * 8), group(plan, max_num_batched_tokens=1)).logs[0]
    assert all(start >= end for end, start in zip(log.end_ns, log.start_ns[3:], strict=False))


@pytest.mark.parametrize(("overlap", "expected"), [(True, 20 + 3 * 10), (False, 4 * 20)])
def test_chunks_of_a_prompt_overlap_in_a_pipeline_if_they_may(overlap: bool, expected: int) -> None:
    """Four chunks through two stages of 10 ns take 20 ns and then 10 ns each, or 20 ns each one after the other."""
    ranks = group(stages([10, 10]), max_num_batched_tokens=4, overlap_chunks=overlap)
    assert token_times(run_group(requests((0, 16, 1)), ranks)) == [[expected]]


def test_ranks_in_lockstep_end_every_step_with_the_slowest() -> None:
    """A rank with a short prompt waits for the one with the long prompt."""
    plan = stages([10], ranks=2, per_token_ns=1)
    outcome = run_group(requests((0, 50, 3), (0, 5, 3)), group(plan))
    first, second = outcome.logs
    assert list(first.end_ns) == list(second.end_ns) == [60, 71, 82]
    assert token_times(outcome) == [[60, 71, 82]] * 2


def test_an_idle_rank_keeps_the_others_company() -> None:
    """A rank without requests has a row without tokens for every step of the others, and uses no KV."""
    outcome = run_group(requests((0, 8, 6)), group(stages([10], ranks=3)), avoided=frozenset({0, 2}))
    busy = outcome.logs[1]
    for idle in (outcome.logs[0], outcome.logs[2]):
        assert (idle.start_ns, idle.end_ns) == (busy.start_ns, busy.end_ns)
        assert not any(idle.tokens)
        assert not any(idle.decoded)
        assert not any(idle.kv_used_blocks)
    assert sum(busy.tokens) == 8 + 5


@pytest.mark.parametrize("busy_ns", [[10], [10, 20], [10, 20, 5, 5]])
def test_ranks_that_drain_at_different_times_do_not_hang(busy_ns: list[int]) -> None:
    """When one rank has ended its requests the other goes on to its end, and both fall idle together."""
    outcome = run_group(requests((0, 4, 40), (0, 4, 2)), group(stages(busy_ns, ranks=2)))
    long, short = outcome.logs
    assert len(token_times(outcome)[0]) == 40
    assert sum(tokens > 0 for tokens in short.tokens) == 2
    assert len(long.end_ns) == len(short.end_ns)
    assert list(long.idle_ns) == list(short.idle_ns) == [outcome.end_ns]


def test_a_group_of_one_rank_and_one_stage_is_a_plain_instance() -> None:
    """The same requests have the same tokens with a step model as with a plan that takes as long."""
    rows = [(int(t), int(p), int(o)) for t, p, o in np.random.default_rng(2).integers(1, 40, size=(30, 3))]
    workload = requests(*sorted(rows))
    limits = {"num_blocks": 40, "max_num_seqs": 6, "max_num_batched_tokens": 32}
    plain = simulate(workload, [instance(step_model=FixedLatency(step_ns=9), **limits)], routers.get("round_robin")())
    grouped = run_group(workload, group(stages([9]), **limits))
    assert token_times(plain) == token_times(grouped)
    assert plain.logs[0].kv_used_blocks == grouped.logs[0].kv_used_blocks


def test_scaling_all_times_by_two_scales_the_result_by_two() -> None:
    """Stages, ways and gaps between arrivals that are twice as long make all tokens' times twice as late."""
    rows = sorted((int(t), int(p), int(o)) for t, p, o in np.random.default_rng(3).integers(1, 60, size=(40, 3)))
    limits = {"num_blocks": 40, "max_num_seqs": 6, "max_num_batched_tokens": 16}

    def times(scale: int) -> list[list[int]]:
        plan = SlowestRankPlan(2, [3 * scale, 5 * scale], [scale, scale], [scale, 0])
        return token_times(run_group(requests(*[(scale * t, p, o) for t, p, o in rows]), group(plan, **limits)))

    assert [[2 * t for t in row] for row in times(1)] == times(2)


@settings(max_examples=60, deadline=None)
@given(
    tensor=DEGREES,
    pipeline=DEGREES,
    data=DEGREES,
    expert=DEGREES,
    idle=st.integers(0, 3),
    chunked=st.booleans(),
    caching=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_combination_of_parallelism_ends(
    tensor: int, pipeline: int, data: int, expert: int, idle: int, chunked: bool, caching: bool, seed: int
) -> None:
    """Under random arrivals, with few KV blocks and idle ranks, all requests end, in both engines alike."""
    models = [ShardedRank(tensor, expert, last=stage == pipeline - 1) for stage in range(pipeline)]
    plan = Lockstep(models, data) if data > 1 else Pipeline(models)
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 16))
    rows = sorted(zip(rng.integers(0, 3000, n), rng.integers(1, 30, n), rng.integers(1, 12, n), strict=True))
    ranks = group(
        plan,
        num_blocks=int(rng.integers(14, 40)),
        max_model_len=42,
        max_num_batched_tokens=int(rng.integers(3, 12)) if chunked else 42,
        enable_chunked_prefill=chunked,
        enable_prefix_caching=caching,
        overlap_chunks=bool(rng.integers(2)),
    )
    shared = rng.integers(0, 2, size=42).tolist()
    tokens = [shared[: int(p + o)] for _, p, o in rows]
    outcome = run_group(requests(*rows, tokens=tokens), ranks, frozenset(range(min(idle, data - 1))))
    assert [len(times) for times in token_times(outcome)] == [int(o) for _, _, o in rows]
    assert all(log.end_ns == outcome.logs[0].end_ns for log in outcome.logs)


def test_what_a_group_cannot_do_is_refused() -> None:
    """A plan for another number of ranks, planning ahead, and a scheduler that lets prompts go first are refused."""
    workload = requests((0, 1, 1))
    ranks = group(stages([10], ranks=2))
    with pytest.raises(InputError, match="ranks"):
        simulate(workload, ranks[:1], routers.get("round_robin")())
    with pytest.raises(InputError, match="async_scheduling"):
        simulate(workload, group(stages([10]), async_scheduling=True), routers.get("round_robin")())
    prompts_first = [replace(rank, scheduler=instance(scheduler="vllm_v0").scheduler) for rank in ranks]
    with pytest.raises(InputError, match="running requests come first"):
        simulate(workload, prompts_first, routers.get("round_robin")())
