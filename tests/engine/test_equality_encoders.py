"""The fast engine equals the stepwise engine, to the nanosecond, with encoders in front of the instances."""

from __future__ import annotations

import pytest
from equality_helpers import compare, run_stepwise
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.cluster.embeddings import EmbeddingTransfers
from servetwin.testing.random_encoders import random_encoder_scenario

SCENARIOS = 160
PER_TEST = 40


@pytest.mark.parametrize("first", range(0, SCENARIOS, PER_TEST))
def test_fast_engine_equals_stepwise_engine(first: int) -> None:
    """Every batch, landing of embeddings and token's time is equal, whatever stands behind the encoders."""
    for seed in range(first, first + PER_TEST):
        compare(random_encoder_scenario(seed), str(seed), may_get_stuck=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=SCENARIOS, max_value=2**63))
def test_fast_engine_equals_stepwise_engine_on_new_scenarios(seed: int) -> None:
    """The same, on scenarios that nobody has tried before."""
    compare(random_encoder_scenario(seed), str(seed), may_get_stuck=True)


@pytest.mark.parametrize("seed", [631, 972, 1386, 1529])
def test_who_is_released_by_a_rejection_after_encoding_comes_before_the_next_batch(seed: int) -> None:
    """An encoded request that fits nowhere releases the next of a closed loop, which may join the batch begun then."""
    compare(random_encoder_scenario(seed), str(seed))


def test_random_encoder_scenarios_reach_what_they_are_for() -> None:
    """Among the scenarios are queues, batches, shared links, rejections after encoding, and every kind of cluster."""
    names = ("waited", "together", "slowed down", "rejected", "handed over", "grouped", "tiers", "one network", "loops")
    reached = dict.fromkeys(names, 0)
    for seed in range(SCENARIOS):
        scenario = random_encoder_scenario(seed)
        pool, slow, workload = scenario.encoders, run_stepwise(scenario), scenario.workload
        assert pool is not None
        if isinstance(slow, str):
            continue
        how = scenario.make_disaggregation()
        names = [spec.name for spec in scenario.instances]
        reached["one network"] += EmbeddingTransfers(pool, names, how).shared
        reached["loops"] += workload.concurrency is not None or workload.parent is not None
        encoded = [request for request in slow.requests if request.encoder_tokens and request.encode_ns >= 0]
        for request in encoded:
            spec = scenario.instances[request.instance]
            same = [r for r in encoded if (r.encode_ns, r.encoder) == (request.encode_ns, request.encoder)]
            alone = EmbeddingTransfers(pool, names, scenario.make_disaggregation())
            first = request.prefill_instance if request.prefill_instance >= 0 else request.instance
            reached["waited"] += request.encode_ns > request.arrival_ns
            reached["together"] += len(same) > 1
            reached["rejected"] += request.state == "rejected"
            reached["handed over"] += request.prefill_instance >= 0
            reached["grouped"] += spec.plan is not None
            reached["tiers"] += spec.tiers is not None
            if request.embedded_ns >= 0:
                alone.start(0, request.encoder, first, request.encoder_tokens)
                landed: list[int] = []
                while not landed:
                    event_ns = alone.next_event_ns()
                    assert event_ns is not None
                    landed = list(alone.advance(event_ns))
                reached["slowed down"] += request.embedded_ns - request.encoded_ns > event_ns
    assert min(reached.values()) >= 10, reached
