"""Prompts on one instance, outputs on another: what must hold by arithmetic, on both sides."""

from __future__ import annotations

import pytest
from disaggregation_helpers import RecordedTransfers, in_role, pool, run_apart
from engine_helpers import requests
from group_helpers import group, stages

from servetwin.engine.base import NOT_YET
from servetwin.testing.equality import token_times
from servetwin.testing.transfers import ConstantTransfers, HurriedTransfers, OverlappedTransfers, SharedTransfers

PREFILL, DECODE = pool("prefill"), pool("decode")


@pytest.mark.parametrize(("first_token", "times"), [("prefill", [17, 173, 183, 193]), ("decode", [171, 181, 191, 201])])
def test_one_request_takes_its_prefill_the_hand_over_the_transfer_and_its_steps(
    first_token: str, times: list[int]
) -> None:
    """All but the last known token travel; that one is computed on the other side, in a step of its own."""
    outcome = run_apart(
        requests((7, 8, 4)),
        [PREFILL, DECODE],
        lambda: ConstantTransfers(100, 2),
        first_token=first_token,  # type: ignore[arg-type]
        handoff_ns=30,
    )
    log = outcome.requests
    landed = 47 + 100 + 2 * (8 if first_token == "prefill" else 7)
    assert token_times(outcome) == [times]
    assert (log.prefill_instance[0], log.instance[0]) == (0, 1)
    assert (log.handed_over_ns[0], log.transfer_ns[0]) == (17, 47)
    assert log.landed_ns[0] == log.decode_admitted_ns[0] == landed
    assert (log.first_scheduled_ns[0], log.finish_ns[0]) == (7, times[-1])
    assert [list(entry.tokens) for entry in outcome.logs] == [[8], [1] * (4 if first_token == "decode" else 3)]


@pytest.mark.parametrize(("first_token", "times"), [("prefill", [10]), ("decode", [20])])
def test_one_token_is_made_where_the_first_token_is_made(first_token: str, times: list[int]) -> None:
    """A request for one token goes on only if that token is made on the other side."""
    outcome = run_apart(requests((0, 8, 1)), [PREFILL, DECODE], first_token=first_token)  # type: ignore[arg-type]
    assert token_times(outcome) == [times]
    assert outcome.requests.instance[0] == (0 if first_token == "prefill" else 1)
    assert outcome.requests.prefill_instance[0] == (NOT_YET if first_token == "prefill" else 0)


def test_held_blocks_keep_others_out_until_the_kv_has_landed() -> None:
    """The second prompt is computed only when the first one's KV is on the other side."""
    outcome = run_apart(
        requests((0, 8, 3), (0, 8, 3)), [pool("prefill", num_blocks=3), DECODE], lambda: ConstantTransfers(500, 0)
    )
    assert list(outcome.requests.first_scheduled_ns) == [0, 510]
    assert list(outcome.requests.handed_over_ns) == [10, 520]
    prefill = outcome.logs[0]
    assert list(zip(prefill.idle_ns, prefill.idle_used_blocks, strict=True)) == [(10, 2), (520, 2), (1020, 0)]


def test_blocks_on_both_sides_are_used_while_kv_is_on_its_way() -> None:
    """The other side has taken its blocks before a byte moves; it falls idle with them in use."""
    outcome = run_apart(requests((0, 8, 2)), [PREFILL, DECODE], lambda: ConstantTransfers(100, 0))
    decode = outcome.logs[1]
    assert list(zip(decode.idle_ns, decode.idle_used_blocks, strict=True)) == [(10, 2), (120, 0)]
    assert list(decode.kv_used_blocks) == [3]


def test_a_full_decode_side_holds_the_prefill_side_back() -> None:
    """The second request's KV moves when the first has ended; until then it stays, and the third one out."""
    instances = [pool("prefill", num_blocks=4), pool("decode", num_blocks=3)]
    outcome = run_apart(requests((0, 8, 4), (0, 8, 4), (0, 8, 4)), instances)
    log = outcome.requests
    assert token_times(outcome)[:2] == [[10, 20, 30, 40], [10, 50, 60, 70]]
    assert list(log.transfer_ns) == [10, 40, 70]
    assert list(log.first_scheduled_ns) == [0, 0, 10]


def test_nobody_overtakes_the_head_of_the_queue() -> None:
    """A request with few tokens behind one with many waits for blocks, too."""
    instances = [PREFILL, pool("decode", num_blocks=6)]
    outcome = run_apart(requests((0, 8, 4), (1, 16, 4), (2, 1, 4)), instances)
    assert list(outcome.requests.transfer_ns) == [10, 40, 40]


def test_loading_takes_no_seat() -> None:
    """With one seat the second request's KV comes while the first one's does; it enters when the seat is free."""
    outcome = run_apart(
        requests((0, 8, 4), (0, 8, 4)), [PREFILL, pool("decode", max_num_seqs=1)], lambda: ConstantTransfers(100, 0)
    )
    log = outcome.requests
    assert list(log.landed_ns) == [110, 110]
    assert list(log.decode_admitted_ns) == [110, 140]


@pytest.mark.parametrize(("latency_ns", "admitted_ns"), [(50, 60), (51, 70)])
def test_kv_that_lands_when_a_step_ends_is_used_in_the_next(latency_ns: int, admitted_ns: int) -> None:
    """Landing comes before planning; in the middle of a step it waits for its end."""
    instances = [pool("prefill"), pool("both")]
    workload = requests((0, 1, 30), (0, 8, 2), (0, 4, 30))
    outcome = run_apart(workload, instances, lambda: ConstantTransfers(latency_ns, 0), local_prompt_tokens=1)
    handed_over = [row for row in range(3) if outcome.requests.prefill_instance[row] == 0]
    assert handed_over == [1]
    assert outcome.requests.landed_ns[1] == 10 + latency_ns
    assert outcome.requests.decode_admitted_ns[1] == admitted_ns


def test_a_request_preempted_on_the_decode_side_is_computed_again_there() -> None:
    """It does not go back: prompt and outputs so far are a local prefill, and its tokens all appear."""
    instances = [PREFILL, pool("decode", num_blocks=10, block_size=1)]
    outcome = run_apart(requests((0, 3, 5), (0, 3, 5)), instances)
    log, decode = outcome.requests, outcome.logs[1]
    assert list(log.preemptions) == [0, 1]
    assert list(log.recomputed_tokens) == [0, 5]
    assert token_times(outcome) == [[10, 20, 30, 40, 50], [10, 20, 30, 60, 70]]
    assert list(decode.preempted_ns) == [30]
    assert list(decode.readmitted_ns) == [50]
    assert list(decode.tokens) == [2, 2, 1, 1, 6, 1]
    assert list(outcome.logs[0].tokens) == [6]


@pytest.mark.parametrize("first_token", ["prefill", "decode"])
def test_what_the_decode_side_has_does_not_travel(first_token: str) -> None:
    """Full blocks that the other side finds are not sent; two that come at once do not find each other's."""
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    tokens = [[*prompt, *range(20 + row, 23 + row)] for row in range(3)]
    workload = requests((0, 10, 3), (0, 10, 3), (1000, 10, 3), tokens=tokens)
    caching = [pool("prefill", enable_prefix_caching=True), pool("decode", enable_prefix_caching=True)]
    made: list[RecordedTransfers] = []

    def carrier() -> RecordedTransfers:
        made.append(RecordedTransfers(7, 1))
        return made[-1]

    outcome = run_apart(workload, caching, carrier, first_token=first_token)  # type: ignore[arg-type]
    whole = 10 if first_token == "prefill" else 9
    assert made[0].asked == made[1].asked == [(0, 1, whole), (0, 1, whole), (0, 1, whole - 8)]
    assert list(outcome.requests.cached_tokens) == [0, 8, 8]  # on the prefill side, known when they are scheduled


def test_a_transfer_of_nothing_is_a_transfer() -> None:
    """If the other side finds all but the last token, the request still waits for a transfer's latency."""
    workload = requests((0, 9, 2), (1000, 9, 2), tokens=[list(range(12))] * 2)
    caching = [pool("prefill", enable_prefix_caching=True), pool("decode", enable_prefix_caching=True)]
    outcome = run_apart(workload, caching, lambda: ConstantTransfers(7, 1), first_token="decode")
    assert list(outcome.requests.transfer_ns) == [10, 1010]
    assert list(outcome.requests.landed_ns) == [10 + 7 + 8, 1010 + 7]


def test_transfers_without_any_duration_all_land() -> None:
    """Several that land at the instant at which they begin, one after the other, are all seen."""
    limits = [pool("prefill", max_num_batched_tokens=8), pool("decode")]
    outcome = run_apart(requests(*[(0, 8, 3)] * 4), limits, lambda: ConstantTransfers(0, 0))
    assert list(outcome.requests.transfer_ns) == list(outcome.requests.landed_ns) == [10, 20, 30, 40]
    assert [times[0] for times in token_times(outcome)] == [10, 20, 30, 40]


def test_a_transfer_that_begins_when_another_has_landed_lands_at_that_instant_too() -> None:
    """Two ways without any duration are used at the same time, one after the other."""
    outcome = run_apart(requests(*[(0, 8, 3)] * 2), [DECODE, DECODE, PREFILL, PREFILL], lambda: ConstantTransfers(0, 0))
    assert list(outcome.requests.landed_ns) == [10, 10]
    assert token_times(outcome) == [[10, 20, 30]] * 2


def test_transfers_that_share_a_way_slow_each_other_down() -> None:
    """Two at once take twice as long; the second of two that overlap in part is faster when the first has landed."""
    instances = [pool("prefill", max_num_batched_tokens=8), DECODE]
    outcome = run_apart(requests((0, 8, 2), (0, 8, 2)), instances, lambda: SharedTransfers(0, 10))
    assert list(outcome.requests.transfer_ns) == [10, 20]
    assert list(outcome.requests.landed_ns) == [10 + 10 + 2 * 70, 160 + 10]


def test_kv_travels_while_the_prompt_is_computed_if_it_may() -> None:
    """In the 10 ns of the prefill five of eight tokens travel at 2 ns each; after it the latency and three tokens."""
    outcome = run_apart(requests((0, 8, 2)), [PREFILL, DECODE], lambda: OverlappedTransfers(100, 2))
    assert outcome.requests.landed_ns[0] == 10 + 100 + 3 * 2


def test_a_transfer_may_land_sooner_than_was_expected() -> None:
    """The first was expected at 10,010 ns, and lands when the second begins; nothing happens at 10,010 ns any more."""

    class Hurried(HurriedTransfers):
        def start(self, now_ns: int, source: int, target: int, tokens: int) -> int:
            self._latency_ns = 10_000 if now_ns == 10 else 5
            return super().start(now_ns, source, target, tokens)

    outcome = run_apart(requests((0, 8, 2), (50, 8, 2)), [PREFILL, DECODE], lambda: Hurried(0, 0))
    assert list(outcome.requests.landed_ns) == [60, 65]
    assert outcome.end_ns == 80


def test_an_instance_that_does_both_keeps_its_own_and_takes_others() -> None:
    """Of two requests, round robin, one stays where its prompt was computed and the other joins it there."""
    outcome = run_apart(requests((0, 8, 3), (0, 8, 3)), [PREFILL, pool("both")])
    log = outcome.requests
    assert list(log.instance) == [1, 1]
    assert list(log.prefill_instance) == [0, NOT_YET]
    assert token_times(outcome) == [[10, 20, 30], [10, 20, 30]]


def test_pipelines_and_lockstep_ranks_hand_over_and_take_over() -> None:
    """A prompt passes two stages; its output is made by one rank of two that step together."""
    prefill = in_role("prefill", 0, group(stages([10, 20])))
    decode = in_role("decode", 1, group(stages([10], ranks=2, per_token_ns=5)))
    instances = prefill + decode
    outcome = run_apart(requests((0, 8, 3), (0, 8, 3)), instances, lambda: ConstantTransfers(100, 0))
    assert token_times(outcome) == [[30, 145, 160], [30, 145, 160]]
    assert list(outcome.requests.instance) == [1, 2]


def test_scaling_all_times_by_two_scales_the_result_by_two() -> None:
    """Steps, ways, hand-overs and gaps that are twice as long make all tokens' times twice as late."""
    rows = [(3 * i % 50, 1 + 7 * i % 19, 1 + 5 * i % 11) for i in range(30)]

    def times(scale: int) -> list[list[int]]:
        prefill = group(stages([5 * scale], per_token_ns=scale), num_blocks=14, max_num_batched_tokens=16)
        decode = group(stages([7 * scale], per_token_ns=scale), num_blocks=30, max_num_seqs=4)
        instances = in_role("prefill", 0, prefill) + in_role("decode", 1, decode)
        workload = requests(*sorted((scale * t, p, o) for t, p, o in rows))
        outcome = run_apart(workload, instances, lambda: ConstantTransfers(4 * scale, scale), handoff_ns=3 * scale)
        return token_times(outcome)

    assert [[2 * t for t in row] for row in times(1)] == times(2)
