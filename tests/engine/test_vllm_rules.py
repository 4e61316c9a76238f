"""vLLM V1's scheduling rules, each on a case small enough to work out by hand (steps take ten nanoseconds)."""

from __future__ import annotations

import pytest
from engine_helpers import instance, requests, run, steps_of

from servetwin.engine.base import COMPLETED, REJECTED


def test_first_token_comes_when_the_step_that_ends_the_prefill_ends() -> None:
    """A lone request gets its first token after one step and one more per step."""
    assert steps_of(run(requests((0, 8, 3)), instance())) == [[1, 2, 3]]


def test_asynchronous_scheduling_plans_a_step_ahead() -> None:
    """Who comes during the second step misses the third, which is planned already; an idle engine begins at once."""
    synchronous, ahead = instance(), instance(async_scheduling=True)
    late = requests((0, 8, 9), (15, 8, 1))
    assert steps_of(run(late, synchronous))[1] == [3]
    assert steps_of(run(late, ahead))[1] == [4]
    assert steps_of(run(requests((0, 8, 2), (15, 8, 1)), ahead)) == [[1, 2], [3]]
    assert steps_of(run(requests((0, 8, 2), (40, 8, 1)), ahead)) == [[1, 2], [5]]


def test_chunked_prefill_spends_the_budget() -> None:
    """A prompt of 10 with a budget of 4 takes three steps; the next prompt uses what the last chunk leaves."""
    outcome = run(requests((0, 10, 1), (0, 2, 1)), instance(max_num_batched_tokens=4))
    assert steps_of(outcome) == [[3], [3]]
    assert list(outcome.logs[0].tokens) == [4, 4, 4]


def test_without_chunks_a_prompt_waits_for_a_budget_that_holds_it_whole() -> None:
    """The second prompt does not fit beside the first; nobody overtakes it."""
    spec = instance(max_num_batched_tokens=10, max_model_len=10, enable_chunked_prefill=False)
    assert steps_of(run(requests((0, 6, 1), (0, 6, 1), (0, 2, 1)), spec)) == [[1], [2], [2]]


def test_running_requests_come_first() -> None:
    """Two decodes leave one token of a budget of three for a new prompt."""
    outcome = run(requests((0, 1, 9), (0, 1, 9), (15, 4, 1)), instance(max_num_batched_tokens=3))
    assert steps_of(outcome)[2] == [6]


def test_long_prefill_threshold_caps_each_prompt() -> None:
    """With a threshold of 2 a prompt of 6 takes three steps and leaves room for others."""
    spec = instance(max_num_batched_tokens=8, long_prefill_token_threshold=2)
    assert steps_of(run(requests((0, 6, 1), (0, 3, 1)), spec)) == [[3], [2]]


def test_seats_are_limited() -> None:
    """With one seat the second request starts when the first has finished."""
    assert steps_of(run(requests((0, 1, 3), (0, 1, 1)), instance(max_num_seqs=1))) == [[1, 2, 3], [4]]


def test_the_last_of_the_running_list_is_preempted_and_computed_again() -> None:
    """Two requests of 4 tokens with 3 blocks of 4: at the fifth token of the first, the second is thrown out."""
    outcome = run(requests((0, 4, 5), (0, 4, 5)), instance(num_blocks=3, scheduler_reserve_full_isl=False))
    log = outcome.requests
    assert list(log.preemptions) == [0, 1]
    assert steps_of(outcome)[0] == [1, 2, 3, 4, 5]
    # Thrown out in the second step with four tokens computed; back with five known tokens when the first has finished.
    assert steps_of(outcome)[1] == [1, 6, 7, 8, 9]
    assert log.recomputed_tokens[1] == 4


def test_nothing_is_admitted_in_a_step_that_preempted() -> None:
    """A short request that would fit waits one step more because somebody was thrown out."""
    spec = instance(num_blocks=3, scheduler_reserve_full_isl=False, enable_prefix_caching=False)
    outcome = run(requests((0, 4, 4), (0, 4, 4), (5, 1, 1)), spec)
    preempted_ns = outcome.logs[0].preempted_ns[0]
    assert outcome.requests.first_scheduled_ns[2] > preempted_ns


@pytest.mark.parametrize(("reserve", "first_scheduled_ns"), [(True, 20), (False, 0)])
def test_reserving_the_whole_prompt(reserve: bool, first_scheduled_ns: int) -> None:
    """A prompt of 8 with a budget of 4 needs one block at once, two if the whole prompt is reserved."""
    spec = instance(num_blocks=2, max_num_batched_tokens=4, scheduler_reserve_full_isl=reserve)
    outcome = run(requests((0, 2, 2), (0, 8, 1)), spec)
    assert outcome.requests.first_scheduled_ns[1] == first_scheduled_ns


def test_a_request_finds_a_prefix_that_is_scheduled_in_the_same_step() -> None:
    """Blocks can be found as soon as they are scheduled, even by the next request of the same step."""
    tokens = [[1] * 8 + [2], [1] * 8 + [3]]
    outcome = run(requests((0, 8, 1), (0, 8, 1), tokens=tokens), instance(enable_prefix_caching=True))
    assert list(outcome.requests.cached_tokens) == [0, 4]


def test_the_last_token_is_always_computed() -> None:
    """A prompt that is cached to its end still computes its last block."""
    tokens = [[1] * 9, [1] * 9]
    outcome = run(requests((0, 8, 1), (100, 8, 1), tokens=tokens), instance(enable_prefix_caching=True))
    assert outcome.requests.cached_tokens[1] == 4


def test_generated_tokens_can_be_found() -> None:
    """A prompt that goes on where an answer ended finds the answer's full blocks."""
    tokens = [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 9, 9, 9]]
    outcome = run(requests((0, 2, 6), (200, 9, 1), tokens=tokens), instance(enable_prefix_caching=True))
    assert outcome.requests.cached_tokens[1] == 4


def test_a_preempted_request_finds_its_own_blocks() -> None:
    """With prefix caching the victim recomputes only what was evicted meanwhile."""
    spec = instance(num_blocks=3, scheduler_reserve_full_isl=False, enable_prefix_caching=True)
    outcome = run(requests((0, 4, 3), (0, 4, 5)), spec)
    assert outcome.requests.preemptions[1] == 1
    assert outcome.requests.recomputed_tokens[1] == 0


def test_priority_serves_the_smaller_value_first_and_preempts_the_greatest() -> None:
    """The urgent request overtakes in the queue, and the least urgent loses its blocks."""
    outcome = run(
        requests((0, 1, 2), (0, 1, 1), (0, 1, 1), priority=[0, 5, 1]), instance(max_num_seqs=1, ordering="priority")
    )
    assert steps_of(outcome) == [[1, 2], [4], [3]]
    spec = instance(num_blocks=3, scheduler_reserve_full_isl=False, ordering="priority")
    outcome = run(requests((0, 4, 5), (0, 4, 5), priority=[1, 0]), spec)
    assert list(outcome.requests.preemptions) == [1, 0]


def test_shortest_prompt_first() -> None:
    """Of those that wait, the shortest prompt enters first."""
    spec = instance(max_num_seqs=1, ordering="shortest_prompt_first")
    assert steps_of(run(requests((0, 9, 1), (1, 7, 1), (2, 3, 1)), spec)) == [[1], [3], [2]]


def test_static_batching_runs_a_batch_to_its_end() -> None:
    """Whoever comes after the batch has begun to decode waits for its longest request."""
    spec = instance(scheduler="static", max_model_len=100)
    assert steps_of(run(requests((0, 1, 2), (0, 1, 5), (15, 1, 1)), spec)) == [[1, 2], [1, 2, 3, 4, 5], [6]]


def test_prefill_first_lets_decodes_wait() -> None:
    """A new prompt is computed alone (vLLM V0); the running request gets no token in that step."""
    spec = instance(scheduler="vllm_v0", max_model_len=100)
    assert steps_of(run(requests((0, 1, 4), (15, 1, 1)), spec)) == [[1, 2, 4, 5], [3]]


def test_orca_computes_whole_prompts_beside_decodes() -> None:
    """The decode goes on while the whole new prompt is computed."""
    spec = instance(scheduler="orca", max_model_len=100)
    assert steps_of(run(requests((0, 1, 4), (15, 50, 1)), spec)) == [[1, 2, 3, 4], [3]]


def test_requests_that_can_never_be_served_are_rejected_with_the_reason() -> None:
    """Too long for the model and too long for the cache are told apart; others are served."""
    outcome = run(requests((0, 90, 20), (0, 40, 1), (0, 4, 1)), instance(num_blocks=8, max_model_len=100))
    assert list(outcome.requests.state) == [REJECTED, REJECTED, COMPLETED]
    assert outcome.requests.reasons == {
        0: "prompt + output is 110 tokens, max_model_len is 100",
        1: "needs 10 KV blocks, the instance has 8",
    }


def test_an_idle_instance_that_polls_notices_arrivals_late() -> None:
    """With polls every 100 ns after it fell idle, an arrival waits for the next poll."""
    outcome = run(requests((0, 1, 1), (30, 1, 1)), instance(idle_poll_ns=100))
    assert list(outcome.requests.first_scheduled_ns) == [0, 110]
