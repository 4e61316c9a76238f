"""KV tiers below the device: what must hold by arithmetic, in both engines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_helpers import STEP_NS, instance, requests, run
from group_helpers import group, stages

from servetwin.cluster.base import InstanceSpec, SimulationOutcome, routers
from servetwin.cluster.simulation import simulate
from servetwin.core.errors import InputError
from servetwin.memory.tiers import TierDevice, TierSpec, TiersSpec
from servetwin.testing.equality import token_times
from servetwin.workload.base import DistinctContents, Workload

HOST = TierSpec("host", "host", None, chunk_bytes=8)
TOKENS = list(range(100))


def tiers(*specs: TierSpec, latency_ns: int = 0, ns_per_byte: float = 0, **options: Any) -> TiersSpec:
    """Return tiers of chunks of 8 tokens, all read by devices of this speed."""
    speed = 1e9 / ns_per_byte if ns_per_byte else None
    devices = tuple(TierDevice(latency_ns, speed) for _ in specs or (HOST,))
    return TiersSpec(specs or (HOST,), devices, chunk_tokens=8, **({"instant_writes": True} | options))


def small(own: TiersSpec | None, blocks: int = 9, **settings: Any) -> InstanceSpec:
    """Return an instance that can keep little on its device (blocks of 4 tokens)."""
    return replace(instance(num_blocks=blocks, enable_prefix_caching=True, **settings), tiers=own)


def twice(prompt: int = 20, between: int = 35) -> Workload:
    """Return a prompt, another one that drives it out of a small device, and the first one again."""
    rows = [(0, prompt, 2), (100, between, 2), (200, prompt, 2)]
    return requests(*rows, tokens=[TOKENS[: prompt + 2], list(range(200, 202 + between)), TOKENS[: prompt + 2]])


def recalls_of(outcome: SimulationOutcome, number: int = 0) -> list[tuple[int, ...]]:
    """Return an instance's recalls: request, tier, tokens, when, and when they were there."""
    log = outcome.logs[number]
    columns = (log.recall_request, log.recall_tier, log.recall_tokens, log.recall_ns, log.recalled_ns)
    return list(zip(*columns, strict=True))


def test_a_recall_takes_latency_and_whole_chunks_bytes_and_holds_its_step_up() -> None:
    """Two of the prompt's two and a half chunks come back; the step that computes the rest begins when they have."""
    outcome = run(twice(), small(tiers(latency_ns=7, ns_per_byte=2)))
    assert recalls_of(outcome) == [(2, 0, 16, 200, 200 + 7 + 2 * 16)]
    assert token_times(outcome)[2] == [239 + STEP_NS, 239 + 2 * STEP_NS]
    assert outcome.requests.cached_tokens[2] == 0
    assert list(outcome.logs[0].tokens)[-2:] == [20 - 16, 1]


def test_the_last_known_token_is_always_computed() -> None:
    """Of a prompt of exactly two chunks one is recalled: the other has the last token."""
    assert [recall[2] for recall in recalls_of(run(twice(16), small(tiers())))] == [8]


def test_blocks_on_the_device_come_first_and_a_straddling_chunk_is_read_whole() -> None:
    """Three blocks of the prompt are on the device: a chunk and a half; the second chunk is read, half of it counts."""
    own = [TOKENS[:30], TOKENS[:13], TOKENS[:30]]
    spec = small(tiers(ns_per_byte=1), blocks=10)
    other = list(range(500, 526))
    workload = requests(
        (0, 25, 1), (100, 13, 5), (105, 26, 1), (400, 25, 1), tokens=[own[0], TOKENS[:18], other, own[2]]
    )
    outcome = run(workload, spec)
    (recall,) = [recall for recall in recalls_of(outcome) if recall[0] == 3]
    cached = outcome.requests.cached_tokens[3]
    assert cached > 0
    assert (cached + recall[2]) % 8 == 0
    chunks = (cached + recall[2]) // 8 - cached // 8
    assert recall[4] - recall[3] == 8 * chunks


def test_what_was_lost_is_computed_again_where_there_are_no_tiers() -> None:
    """The same run without a tier computes the whole prompt."""
    outcome = run(twice(), small(None))
    assert list(outcome.logs[0].tokens)[-2:] == [20, 1]


@pytest.mark.parametrize(("ns_per_byte", "found"), [(2, True), (20, False)])
def test_a_chunk_is_found_when_it_has_been_written(ns_per_byte: int, found: bool) -> None:
    """Saving 16 bytes begins when the prompt is computed (10) and must end before the prompt is looked up (200)."""
    outcome = run(twice(), small(tiers(ns_per_byte=ns_per_byte, instant_writes=False)))
    assert bool(recalls_of(outcome)) is found
    (tier,) = outcome.tiers
    assert tier.log.time_ns[1] == 10 + 16 * ns_per_byte or not found


@pytest.mark.parametrize(("saves", "chunks"), [("prompt", 2), ("all", 3)])
def test_generated_tokens_are_saved_where_that_is_wanted(saves: str, chunks: int) -> None:
    """A prompt of 20 tokens has two chunks; with 4 of 5 generated tokens computed there are three."""
    outcome = run(requests((0, 20, 5), tokens=[TOKENS[:25]]), small(tiers(saves=saves)))
    (tier,) = outcome.tiers
    assert tier.log.stored_chunks[-1] == chunks


def test_an_instance_finds_what_another_one_saved_in_a_shared_tier() -> None:
    """The second request goes to the second instance, which has never seen the prompt."""
    workload = requests((0, 20, 2), (100, 20, 2), tokens=[TOKENS[:22]] * 2)
    own = tiers(latency_ns=5)
    shared = run(workload, small(own), small(own))
    assert recalls_of(shared, 1) == [(1, 0, 16, 100, 105)]
    assert [record.instances for record in shared.tiers] == [[0, 1]]
    private = run(workload, small(tiers(replace(HOST))), small(tiers(replace(HOST))))
    assert recalls_of(private, 1) == []
    assert [record.instances for record in private.tiers] == [[0], [1]]


def test_recalls_wait_for_each_other_at_one_device() -> None:
    """Two instances read at once: the second one's recall begins when the first one's has ended."""
    tokens = [TOKENS[:22], list(range(300, 322))]
    workload = requests((0, 20, 2), (0, 20, 2), (100, 20, 2), (100, 20, 2), tokens=[*tokens, tokens[1], tokens[0]])
    own = tiers(latency_ns=3, ns_per_byte=1)
    outcome = run(workload, small(own), small(own))
    ends = [recalls_of(outcome, number)[0][4] for number in (0, 1)]
    assert ends == [100 + 19, 100 + 2 * 19]


def test_requests_of_a_step_are_looked_up_in_turn() -> None:
    """Each lookup takes its time, also of one that finds nothing; then the step begins."""
    tokens = [TOKENS[:22], list(range(300, 322))]
    workload = requests((0, 20, 2), (0, 20, 2), tokens=tokens)
    spec = small(tiers(replace(HOST, lookup_ns=6)), blocks=40)
    assert token_times(run(workload, spec)) == [[12 + STEP_NS, 12 + 2 * STEP_NS]] * 2


def test_write_back_passes_on_what_the_first_tier_gives_up() -> None:
    """With write through both tiers have all; with write back the second one has what the first one had no room for."""
    first, second = TierSpec("a", "host", 2, 8), TierSpec("b", "ssd", None, 8)
    stored = {}
    for write in ("through", "back"):
        outcome = run(twice(), small(tiers(replace(first), replace(second), write=write, promote=False)))
        stored[write] = [tier.log.stored_chunks[-1] for tier in outcome.tiers]
    assert stored["through"][1] == 2 + 4
    assert stored["back"][1] == 2 + 2
    assert {recall[1] for recall in recalls_of(outcome)} == {1}


def test_a_pipeline_waits_for_its_recalls_once() -> None:
    """The first stage of the wave begins when the KV is there."""
    pipeline = group(stages([10, 10]), enable_prefix_caching=True, num_blocks=9)
    slow, quick = (
        run(twice(), *[replace(spec, tiers=own) for spec in pipeline])
        for own in (tiers(latency_ns=50), tiers(replace(HOST)))
    )
    assert recalls_of(slow)[0][4] == recalls_of(quick)[0][4] + 50
    assert token_times(slow)[2][0] == token_times(quick)[2][0] + 50


def test_an_infinite_tier_has_every_chunk_that_was_there_before() -> None:
    """With the first prompt's end before the next one's begin, hits are those of a set of all prefixes so far."""
    rng = np.random.default_rng(5)
    stems = [rng.integers(0, 9, 64).tolist() for _ in range(3)]
    prompts = [[*stems[int(rng.integers(3))][: int(rng.integers(9, 64))], 10] for _ in range(40)]
    workload = requests(*[(i * 5000, len(p), 1) for i, p in enumerate(prompts)], tokens=prompts)
    outcome = run(workload, small(tiers(), blocks=17))
    seen: set[tuple[int, ...]] = set()
    for row, prompt in enumerate(prompts):
        keys = [tuple(prompt[: 8 * (i + 1)]) for i in range(len(prompt) // 8)]
        reusable = sum(key in seen for key in keys[: (len(prompt) - 1) // 8])
        recalled = sum(tokens for request, _, tokens, *_ in recalls_of(outcome) if request == row)
        cached = outcome.requests.cached_tokens[row]
        assert 8 * reusable <= cached + recalled < 8 * reusable + 8
        seen.update(keys)


def test_tiers_need_prefix_caching_and_whole_blocks() -> None:
    """The error names the instance and what does not go together."""
    workload = Workload(np.zeros(1, np.int64), np.full(1, 4), np.full(1, 1))
    workload.contents = DistinctContents(np.full(1, 5))
    router = routers.get("round_robin")(seed=0)
    with pytest.raises(InputError, match="pool-0: KV tiers need enable_prefix_caching"):
        simulate(workload, [replace(instance(), tiers=tiers())], router)
    with pytest.raises(InputError, match="pool-0: a chunk of 8 tokens is no whole number of blocks of 3"):
        simulate(workload, [small(tiers(), block_size=3)], router)


def test_steps_go_on_while_a_recall_is_under_way() -> None:
    """The request takes its blocks, waits for its KV, and computes the rest of its prompt; others are not held up."""
    tokens = [TOKENS[:22], list(range(200, 237)), TOKENS[:22], list(range(300, 310))]
    workload = requests((0, 20, 2), (100, 35, 2), (200, 20, 2), (200, 4, 6), tokens=tokens)
    waits, goes_on = (
        run(workload, small(tiers(latency_ns=33, load=load, saves="prompt"), blocks=9))
        for load in ("blocking", "async")
    )
    assert recalls_of(waits) == recalls_of(goes_on) == [(2, 0, 16, 200, 233)]
    assert token_times(waits)[2:] == [[243, 253], [243, 253, 263, 273, 283, 293]]
    assert token_times(goes_on)[2:] == [[250, 260], [210, 220, 230, 240, 250, 260]]
    assert goes_on.requests.first_scheduled_ns[2] == 240
    assert goes_on.logs[0].kv_used_blocks[-6] > 4


def test_a_preempted_request_is_swapped_out_and_comes_back() -> None:
    """Its whole chunks are written while the step waits, and read when it is let in again: less is computed again."""
    tokens = [TOKENS[:60], list(range(200, 260))]
    workload = requests((0, 16, 40), (0, 16, 40), tokens=tokens)
    outcomes = {
        preempted: run(
            workload, small(tiers(ns_per_byte=1, instant_writes=False, saves="prompt", preempted=preempted), blocks=14)
        )
        for preempted in ("recompute", "swap")
    }
    lost, swapped = outcomes["recompute"], outcomes["swap"]
    assert sum(lost.requests.preemptions) == sum(swapped.requests.preemptions) == 1
    assert recalls_of(swapped)[0][2] > recalls_of(lost)[0][2]
    assert sum(swapped.requests.recomputed_tokens) < sum(lost.requests.recomputed_tokens)
    log = swapped.logs[0]
    waited = [
        end - start - STEP_NS for start, end in zip(log.start_ns, log.end_ns, strict=True) if end - start > STEP_NS
    ]
    assert len(waited) == 2
