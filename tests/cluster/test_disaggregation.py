"""Prefill and decode apart, seen from the cluster: who goes where, who is turned away, and that nobody is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from disaggregation_helpers import in_role, pool, run_apart
from engine_helpers import requests
from group_helpers import group, stages
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.cluster.base import SimulationOutcome
from servetwin.core.errors import InputError, StuckError
from servetwin.engine.base import COMPLETED, NOT_YET, REJECTED
from servetwin.testing.equality import token_times
from servetwin.testing.transfers import ConstantTransfers, SharedTransfers
from servetwin.workload.base import NO_PARENT, RELEASED_LATER

PREFILL, DECODE = pool("prefill"), pool("decode")


def test_both_hops_have_a_router_of_their_own() -> None:
    """Round robin on either side: prompts over the first two instances, outputs over the other three."""
    outcome = run_apart(requests(*[(0, 4, 2)] * 6), [PREFILL, PREFILL, DECODE, DECODE, DECODE])
    assert list(outcome.requests.prefill_instance) == [0, 1] * 3
    assert sorted(outcome.requests.instance) == [2, 2, 3, 3, 4, 4]


def test_short_prompts_stay_on_the_side_that_decodes() -> None:
    """A prompt of as many tokens as the limit is computed where its output is; one token more, and it is not."""
    outcome = run_apart(requests((0, 5, 2), (0, 6, 2)), [PREFILL, DECODE], local_prompt_tokens=5, handoff_ns=3)
    assert list(outcome.requests.prefill_instance) == [NOT_YET, 0]
    assert list(outcome.requests.instance) == [1, 1]
    assert token_times(outcome)[0] == [10, 20]


def test_models_stay_apart() -> None:
    """A request goes only through instances of its model; one whose model nobody prefills is rejected with its name."""
    instances = [replace(spec, model=model) for model in "ab" for spec in (PREFILL, DECODE)]
    workload = requests(*[(0, 4, 2)] * 3)
    workload.model = ["b", "a", "c"]
    log = run_apart(workload, instances).requests
    assert list(log.prefill_instance) == [2, 0, NOT_YET]
    assert list(log.instance) == [3, 1, NOT_YET]
    assert "no pool prefills the model 'c'" in log.reasons[2]


def test_the_prefill_side_turns_away_what_it_cannot_compute() -> None:
    """It asks only for the prompt and one token: the output's length does not matter there."""
    small = pool("prefill", num_blocks=2)
    log = run_apart(requests((0, 8, 90), (0, 9, 2)), [small, DECODE]).requests
    assert list(log.state) == [COMPLETED, REJECTED]
    assert "needs 3 KV blocks" in log.reasons[1]


def test_a_request_that_the_decode_side_cannot_hold_is_rejected_when_it_comes_there() -> None:
    """Its first token is made, its blocks are given back, and it keeps the time at which it arrived."""
    instances = [pool("prefill", num_blocks=2), pool("decode", max_model_len=20)]
    outcome = run_apart(requests((3, 8, 20), (4, 8, 2)), instances, handoff_ns=5)
    log = outcome.requests
    assert list(log.state) == [REJECTED, COMPLETED]
    assert log.reasons[0] == "prompt + output is 28 tokens, max_model_len is 20"
    assert (log.arrival_ns[0], log.handed_over_ns[0], log.instance[0]) == (3, 13, 1)
    assert log.transfer_ns[0] == log.landed_ns[0] == log.decode_admitted_ns[0] == NOT_YET
    assert log.first_scheduled_ns[1] == 18


def test_a_request_that_was_turned_away_is_outstanding_nowhere() -> None:
    """The router of the second hop sees no trace of rejected requests: it goes on to choose the first instance."""
    small = pool("decode", max_model_len=20)
    workload = requests((0, 8, 20), (100, 8, 2), (200, 8, 2))
    log = run_apart(workload, [PREFILL, small, small], router="least_outstanding").requests
    assert list(log.instance) == [1, 1, 1]


def test_a_session_goes_on_when_the_output_has_ended() -> None:
    """The next turn arrives after the last token on the decode side; a rejection there loses the later turns."""
    workload = requests((0, 8, 3), (0, 8, 90), (RELEASED_LATER, 8, 2), (RELEASED_LATER, 8, 2))
    workload.parent = np.array([NO_PARENT, NO_PARENT, 0, 1])
    workload.delay_ns = np.array([0, 0, 5, 5])
    outcome = run_apart(workload, [PREFILL, pool("decode", max_model_len=30)])
    assert list(outcome.requests.state) == [COMPLETED, REJECTED, COMPLETED, REJECTED]
    assert outcome.requests.arrival_ns[2] == outcome.requests.finish_ns[0] + 5


def test_a_closed_loop_counts_requests_on_their_way() -> None:
    """With one at a time the next arrives when the one before has ended on the other side."""
    workload = requests(*[(RELEASED_LATER, 8, 2)] * 3)
    workload.concurrency = 1
    outcome = run_apart(workload, [PREFILL, DECODE], lambda: ConstantTransfers(100, 0))
    assert list(outcome.requests.arrival_ns) == [0, 120, 240]


def test_a_deadlock_is_explained_from_both_sides() -> None:
    """The oldest request has lost its blocks, those behind it hold the rest and may not overtake: both sides are named.

    Two prompts get their blocks while there are five; the first to run needs a fourth, gives way, and finds that the
    other one, which may not overtake, leaves too few. A third prompt stays on the prefill side.
    """
    instances = [pool("prefill", block_size=1), pool("decode", num_blocks=5, block_size=1)]
    workload = requests((0, 2, 3), (0, 2, 3), (0, 2, 3))
    with pytest.raises(StuckError, match="3 of 3 requests can never be served") as caught:
        run_apart(workload, instances, lambda: ConstantTransfers(100, 0))
    text = str(caught.value)
    assert "pool-0: 0 waiting, 0 of 256 running" in text
    assert "1 computed prompts held" in text
    assert "pool-1: 3 waiting, 0 of 256 running, 3 of 5 KV blocks free" in text


@pytest.mark.parametrize("alone", ["prefill", "decode"])
def test_a_role_needs_somebody_on_the_other_side(alone: str) -> None:
    """Instances that only compute prompts, or only outputs, are refused with the name of one of them."""
    with pytest.raises(InputError, match=f"role '{alone}'") as caught:
        run_apart(requests((0, 4, 2)), [pool(alone)])  # type: ignore[arg-type]
    assert "pool-0" in str(caught.value)


def assert_nobody_is_lost(outcome: SimulationOutcome) -> None:
    """Check that all requests ended with all their tokens, in the order of their life, and that all blocks are free."""
    log, times = outcome.requests, token_times(outcome)
    for row, output_tokens in enumerate(outcome.workload.output_tokens.tolist()):
        assert log.state[row] == COMPLETED
        assert len(times[row]) == output_tokens
        life = [log.arrival_ns[row], log.first_scheduled_ns[row]]
        if log.prefill_instance[row] != NOT_YET:
            life += [log.handed_over_ns[row], log.transfer_ns[row], log.landed_ns[row], log.decode_admitted_ns[row]]
        life.append(log.finish_ns[row])
        assert life == sorted(life)
    for entry in outcome.logs:
        assert list(entry.idle_used_blocks)[-1:] in ([], [0])


@settings(max_examples=150, deadline=None)
@given(
    prefills=st.integers(1, 3),
    decodes=st.integers(1, 3),
    parallel=st.sampled_from(["none", "prefill", "decode"]),
    first_token=st.sampled_from(["prefill", "decode"]),
    handoff_ns=st.sampled_from([0, 7]),
    carrier=st.sampled_from(["instant", "constant", "shared"]),
    short=st.booleans(),
    caching=st.booleans(),
    local_prompt_tokens=st.sampled_from([0, 4]),
    seed=st.integers(0, 2**32),
)
def test_nobody_is_lost(
    prefills: int,
    decodes: int,
    parallel: str,
    first_token: str,
    handoff_ns: int,
    carrier: str,
    short: bool,
    caching: bool,
    local_prompt_tokens: int,
    seed: int,
) -> None:
    """With few blocks to compute prompts in, all requests end, in both engines alike, with every invariant checked.

    The decode side has either few blocks and outputs that need no more than are reserved, or room for all: else it may
    come to a deadlock.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 14))
    longest = 2 if short and first_token == "prefill" else 1 if short else 12
    rows = sorted(zip(rng.integers(0, 300, n), rng.integers(1, 30, n), rng.integers(1, longest + 1, n), strict=True))
    chunk = {"max_num_batched_tokens": int(rng.integers(3, 40)), "enable_prefix_caching": caching}
    tight = {"num_blocks": int(rng.integers(8, 14)), "max_num_seqs": int(rng.integers(1, 5)), **chunk}
    roomy = {"num_blocks": 10 if short else 200, "max_num_seqs": int(rng.integers(1, 5)), **chunk}
    instances = [pool("prefill", **tight)] * prefills + [pool("decode", **roomy)] * decodes
    if parallel != "none":
        limits = tight if parallel == "prefill" else roomy
        instances += in_role(parallel, 0, group(stages([3, 9], ranks=2, per_token_ns=1), **limits))  # type: ignore[arg-type]
    carriers = {"instant": None, "constant": lambda: ConstantTransfers(9, 2), "shared": lambda: SharedTransfers(9, 2)}
    shared = rng.integers(0, 2, size=42).tolist()
    outcome = run_apart(
        requests(*rows, tokens=[shared[: int(p + o)] for _, p, o in rows]),
        instances,
        carriers[carrier],
        first_token=first_token,  # type: ignore[arg-type]
        handoff_ns=handoff_ns,
        local_prompt_tokens=0 if short else local_prompt_tokens,
        router="least_outstanding",
    )
    assert_nobody_is_lost(outcome)
