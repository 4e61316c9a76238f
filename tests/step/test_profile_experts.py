"""Experts and stages of a measured profile: times of tables, parts of ranks, what is sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_helpers import EXPERTS, Even, LssBalanced, decodes, expert_block, moe_profile, profile, single_expert

from servetwin.core.errors import InputError
from servetwin.llm.parallel import Parallelism
from servetwin.network import Link, Ring
from servetwin.step.base import StepShape
from servetwin.step.host import HostOverhead
from servetwin.step.profile import LSS_OPTIONS, ModelSizes, ProfileOptions, ProfileStepModel
from servetwin.step.profile.expert_times import BlockTimes, ExpertTimes, SingleTimes
from servetwin.step.profile.tilt import tilted

SIZES = ModelSizes(num_layers=6, hidden_size=64, experts=EXPERTS)
RING = Ring(Link(1e9, 500))
HOST = HostOverhead(7.3, 0.11)


def expert_times(kind: str, seed: int) -> ExpertTimes:
    """Return the times of a small table."""
    return BlockTimes(expert_block(seed), EXPERTS) if kind == "block" else SingleTimes(single_expert(seed), EXPERTS)


def one(times: ExpertTimes, pairs: float, experts: float, shards: int = 1, slots: float | None = None) -> float:
    """Return one rank's time."""
    rows = np.array([pairs if slots is None else slots])
    return float(times.ranks_ns(rows, np.array([pairs]), np.array([experts]), shards)[0])


@cache
def model(
    kind: str = "block", drawn: bool = False, options: str = "default", ranks: Parallelism | None = None
) -> ProfileStepModel:
    """Return a small mixture of experts."""
    ranks = ranks or Parallelism()
    padding = "cuda_graph" if options == "graphs" else "none"
    routing = Even(ranks.expert, drawn=drawn) if options != "lss" else LssBalanced(ranks.expert, EXPERTS)
    return ProfileStepModel(
        moe_profile(1, kind, padding, ranks.tensor),
        SIZES,
        options=LSS_OPTIONS if options == "lss" else ProfileOptions(),
        collectives=RING,
        host=HOST,
        ranks=ranks,
        experts=routing,
    )


models = st.builds(
    model, st.sampled_from(["block", "single"]), st.booleans(), st.sampled_from(["default", "graphs", "lss"])
)
contexts = st.lists(st.integers(0, 3000), max_size=40)
chunks = st.lists(st.tuples(st.integers(1, 600), st.integers(0, 3000)), max_size=3)
tables = st.tuples(st.sampled_from(["block", "single"]), st.integers(0, 4))
loads = st.tuples(st.floats(0, 3000), st.floats(0, 16))


@given(tables, loads, st.floats(0, 500), st.floats(0, 8), st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_more_pairs_or_experts_never_take_less(
    table: tuple[str, int], load: tuple[float, float], pairs: float, experts: float, shards: int
) -> None:
    """A rank's time falls neither in its pairs nor in its activated experts, nor in rows that it only passes on."""
    times = expert_times(*table)
    more = min(16.0, load[1] + experts)
    first = one(times, load[0], load[1], shards)
    assert one(times, load[0] + pairs, more, shards) >= first * (1 - 1e-9)
    assert one(times, *load, shards, slots=load[0] + pairs) >= first


@given(st.integers(0, 4), loads)
def test_no_block_is_faster_than_its_weights(seed: int, load: tuple[float, float]) -> None:
    """A block takes at least the table's time per expert's weights for each activated expert."""
    times = BlockTimes(expert_block(seed), EXPERTS)
    assert one(times, *load) >= load[1] * times.weight_ns * (1 - 1e-9)
    assert times.weight_ns == pytest.approx(3000, rel=0.25)


def test_a_table_without_noise_is_returned() -> None:
    """At measured places a table that is monotone and cold already gives its own times."""
    table = expert_block()
    cold = replace(table, time_ns=20_000 + 3_000.0 * table.activated + 40.0 * table.tokens)
    got = BlockTimes(cold, EXPERTS).at(2.0 * cold.tokens, cold.activated.astype(float))
    np.testing.assert_allclose(got, cold.time_ns, rtol=1e-9)


def test_rows_that_the_cache_held_are_raised() -> None:
    """Few experts that were measured out of the cache take what more experts save by their weights at most."""
    table = expert_block()
    times = 20_000 + 3_000.0 * table.activated
    hot = replace(table, time_ns=np.where(table.activated == 2, 9_000.0, times))
    assert one(BlockTimes(hot, EXPERTS), 8, 2) == pytest.approx(26_000)


@given(tables, loads, st.sampled_from([2, 4]))
def test_divided_experts_take_their_part(table: tuple[str, int], load: tuple[float, float], shards: int) -> None:
    """Experts divided among ranks take less than whole ones and more than a part of them."""
    times = expert_times(*table)
    whole, part = one(times, *load), one(times, *load, shards)
    output = load[0] * 2 * 64 / (3 * 64 * 32) * (9_000 if table[0] == "single" else 3_000)
    assert whole / shards <= part * (1 + 1e-9)
    assert part <= whole + output * 1.6


@given(models, contexts, chunks, st.integers(0, 50))
@settings(deadline=None)
def test_parts_make_up_the_duration(
    model: ProfileStepModel, kv: list[int], prefills: list[tuple[int, int]], draw: int
) -> None:
    """A plain replica's step is its own part and the shared one, which is also what the breakdown sums to."""
    shape = replace(decodes(kv, *prefills), draw=draw)
    if not shape.num_tokens:
        return
    own = model.own_ns(shape, shape.num_tokens, shape.num_sequences)
    shared = model.shared_ns((shape.num_tokens,), draw)
    assert abs(model.duration_ns(shape) - (own + shared)) <= 0.5 + 1e-6
    assert sum(model.breakdown_ns(shape).values()) == pytest.approx(own + shared)
    assert shared > 0


@given(models, st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.integers(0, 20), st.integers(1, 60))
@settings(deadline=None)
def test_run_equals_stepping(model: ProfileStepModel, kv: list[int], draw: int, steps: int) -> None:
    """Runs of a mixture of experts equal single steps, drawn routing included."""
    run = list(model.decode_run_ns(replace(decodes(kv), draw=draw), steps, 10**15))
    single = [replace(decodes([k + i for k in kv]), draw=draw + i) for i in range(steps)]
    assert run == [model.duration_ns(shape) for shape in single]


@given(st.sampled_from(["default", "lss"]), contexts, chunks, st.integers(2, 5), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=50)
def test_stages_sum_to_the_whole(
    options: str, kv: list[int], prefills: list[tuple[int, int]], stages: int, tensor: int
) -> None:
    """Without what is sent between them, the stages of a pipeline take together what the undivided model takes."""
    shape = decodes(kv, *prefills)
    tokens, sequences = shape.num_tokens, shape.num_sequences
    if not tokens:
        return
    whole = model(options=options, ranks=Parallelism(tensor))
    parts = [model(options=options, ranks=Parallelism(tensor, stages, stage=stage)) for stage in range(stages)]
    total = sum(part.own_ns(shape, tokens, sequences) + part.shared_ns((tokens,), 0) for part in parts)
    expected = whole.own_ns(shape, tokens, sequences) + whole.shared_ns((tokens,), 0)
    assert total == pytest.approx(expected)
    assert [part.send_ns(tokens) > 0 for part in parts] == [True] * (stages - 1) + [False]


@dataclass
class Noted:
    """Collectives that note what they are asked for; one nanosecond each."""

    asked: list[tuple[str, float, int, int]]

    def __getattr__(self, name: str) -> object:
        def note(num_bytes: float, ranks: int = 1, stride: int = 1) -> float:
            if ranks > 1 or name == "send_ns":
                self.asked.append((name.removesuffix("_ns"), num_bytes, ranks, stride))
            return 1.0

        return note


def sent(ranks: Parallelism, tokens: list[int], backend: str = "allgather_reducescatter") -> list[tuple[object, ...]]:
    """Return what one layer's experts send."""
    noted = Noted([])
    layers = replace(SIZES, num_layers=ranks.pipeline)
    rank = ProfileStepModel(
        moe_profile(ranks=ranks.tensor),
        layers,
        options=ProfileOptions(all2all_backend=backend),  # type: ignore[arg-type]
        collectives=noted,  # type: ignore[arg-type]
        ranks=ranks,
        experts=Even(ranks.expert),
    )
    rank.shared_ns(tokens, 0)
    return list(noted.asked)


ROW = 64 * 2
ROUTED_ROW = ROW + 2 * 8


def test_one_replica_adds_up_over_its_tensor_parallel_ranks() -> None:
    """Without data parallelism nothing is sent but an all-reduce, with expert parallelism or without."""
    for experts in (1, 2):
        assert sent(Parallelism(2, expert=experts), [10]) == [("all_reduce", 10 * ROW, 2, 1)]
    assert sent(Parallelism(), [10]) == []


def test_attention_ranks_gather_and_scatter() -> None:
    """All tokens of all data-parallel ranks are gathered, and results scattered, over every stage's own ranks."""
    assert sent(Parallelism(data=2, expert=2), [10, 6]) == [
        ("all_gather", 16 * ROUTED_ROW, 2, 1),
        ("reduce_scatter", 16 * ROW, 2, 1),
    ]
    assert sent(Parallelism(2, 2, data=2), [10, 10]) == [
        ("all_gather", 20 * ROUTED_ROW, 2, 4),
        ("reduce_scatter", 20 * ROW, 2, 4),
        ("all_reduce", 10 * ROW, 2, 1),
    ]


def test_tensor_parallel_ranks_divide_the_tokens_before_they_are_sent() -> None:
    """With tensor, data and expert parallelism all ranks take part, and gather their batch's tokens at the end."""
    assert sent(Parallelism(2, data=2, expert=4), [10, 10]) == [
        ("all_gather", 20 * ROUTED_ROW, 4, 1),
        ("reduce_scatter", 20 * ROW, 4, 1),
        ("all_gather", 10 * ROW, 2, 1),
    ]


def test_deepep_sends_a_token_to_ranks_or_to_experts() -> None:
    """The high-throughput kernels send a token once per rank, the low-latency ones once per expert, there and back.

    Both ways are alike and asked for once.
    """
    place = Parallelism(data=4, expert=4)
    high = sent(place, [64] * 4, "deepep_high_throughput")
    low = sent(place, [64] * 4, "deepep_low_latency")
    once = 1 - 12 * 11 / (16 * 15)  # chance of a token to have an expert on a given rank
    assert high == [("all_to_all", pytest.approx(256 * once * ROW), 4, 1)]
    assert low == [("all_to_all", pytest.approx(256 * 2 / 4 * ROW), 4, 1)]


def test_stages_send_hidden_states_and_residual() -> None:
    """Each tensor-parallel rank sends its part of both, and the receivers gather them; LLMServingSim sends one."""
    noted = Noted([])
    for options in (ProfileOptions(), LSS_OPTIONS):
        first = ProfileStepModel(
            profile(ranks=2), replace(SIZES, experts=None), options=options, collectives=noted,  # type: ignore[arg-type]
            ranks=Parallelism(2, 2),
        )  # fmt: skip
        first.send_ns(10)
    assert noted.asked == [
        ("send", 10 * ROW, 2, 1), ("all_gather", 2 * 10 * ROW, 2, 1), ("send", 10 * ROW, 2, 1),
    ]  # fmt: skip


def test_gaps_are_not_counted_twice() -> None:
    """Where times hold the gaps between kernels, collectives cost the way of their data, without a start."""
    slow = Ring(Link(1e9, 500, operation_ns=40_000))
    place = Parallelism(2)
    table = moe_profile(ranks=2)
    for gaps, start_ns in ((False, 40_000 + 2 * 500), (True, 0)):
        rank = ProfileStepModel(
            replace(table, gaps_included=gaps), SIZES, collectives=slow, host=HOST, ranks=place, experts=Even()
        )
        parts = rank.breakdown_ns(decodes([100] * 4))
        assert parts["all_reduce"] == pytest.approx(6 * (start_ns + 4 * ROW))
        assert parts["combine"] == pytest.approx(6 * (start_ns + 4 * ROW))


def test_padding_makes_a_rank_compute_more_rows() -> None:
    """Rows that the engine pads cost layers over tokens and over sequences, not attention; a dummy has no logits."""
    rank = model()
    shape = decodes([100] * 4)
    own = rank.own_ns(shape, 4, 4)
    assert rank.own_ns(shape, 64, 4) > own
    assert rank.own_ns(shape, 4, 64) > own
    head = sum(rank.breakdown_ns(shape)[layer] for layer in ("lm_head", "sampler"))
    host = HOST.of_requests_ns(4) - HOST.of_requests_ns(0)
    assert own - rank.own_ns(shape, 4, 0) == pytest.approx(head + host)


def test_contexts_are_cut_to_the_window() -> None:
    """Beyond a window of attention longer contexts take no more time, and a run stays equal to its steps."""
    dense = ModelSizes(4, 64, window=500)
    windowed = ProfileStepModel(profile(), dense, host=HOST)
    full = ProfileStepModel(profile(), replace(dense, window=None), host=HOST)
    assert windowed.duration_ns(decodes([400] * 9)) == full.duration_ns(decodes([400] * 9))
    assert windowed.duration_ns(decodes([900] * 9)) == full.duration_ns(decodes([500] * 9))
    assert windowed.duration_ns(decodes([], (100, 900))) == full.duration_ns(decodes([], (100, 500)))
    run = windowed.decode_run_ns(decodes([450] * 9), 100, 10**15)
    assert list(run) == [windowed.duration_ns(decodes([450 + i] * 9)) for i in range(100)]


def test_flat_decode_tables_are_tilted_about_their_middle() -> None:
    """Times that do not grow with the context get a slope: 0.4 of their level at the middle, or what memory needs."""
    decodes_axis, kv = np.array([1, 8]), np.array([0, 64, 256, 1024])
    flat = np.array([[50.0, 50.0, 50.0, 50.0], [800.0, 800.0, 800.0, 800.0]])
    got = tilted(flat, decodes_axis, kv, 0, 1.0)
    np.testing.assert_allclose(got[:, 2], flat[:, 2])
    np.testing.assert_allclose(np.diff(got[:, 1:], axis=1) / np.diff(kv[1:]), [[20 / 256] * 2, [320 / 256] * 2])
    slow = tilted(flat, decodes_axis, kv, 0, 0.04)
    np.testing.assert_allclose(np.diff(slow[1, 1:]) / np.diff(kv[1:]), [8 * 0.04 / 0.4] * 2)
    assert (tilted(flat, decodes_axis, kv, 0, 0.0) == flat).all()
    steep = np.array([[64.0, 64.0, 256.0, 1024.0], [64.0, 512.0, 2048.0, 8192.0]])
    assert (tilted(steep, decodes_axis, kv, 0, 1.0) == steep).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": None}, r"an expert routing"),
        ({"sizes": ModelSizes(6, 64)}, r"has experts, unlike the model"),
        ({"profile": profile()}, r"has no experts, unlike the model"),
        ({"ranks": Parallelism(2)}, r"of tensor_parallel_size 1, the rank's place of 2"),
        ({"ranks": Parallelism(1, 2)}, r"pipeline_parallel_size 2 needs a link"),
        ({"ranks": Parallelism(data=2)}, r"data_parallel_size 2 needs a link"),
        ({"ranks": Parallelism(prefill_context=2)}, r"context parallelism"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    """Experts without a routing, a profile of another kind of model or degree, ranks without a link: one error each."""
    given: dict[str, object] = {"profile": moe_profile(), "sizes": SIZES, "experts": Even()} | changes
    with pytest.raises(InputError, match=message):
        ProfileStepModel(**given)  # type: ignore[arg-type]


def test_pairs_far_beyond_the_table_are_said_once() -> None:
    """More than four times the measured (token, expert) pairs give one notice, fewer none."""
    rank = ProfileStepModel(moe_profile(), SIZES, experts=Even())
    rank.shared_ns((1024,), 0)
    assert not any("pairs" in notice for notice in rank.notices)
    for tokens in (1025, 4000):
        rank.shared_ns((tokens,), 0)
    assert sum("(token, expert) pairs" in notice for notice in rank.notices) == 1


def test_single_tokens_keep_their_draw() -> None:
    """A chunk of one token becomes a decode without losing the step's draw."""
    drawn = model(drawn=True)
    single = StepShape(3, 300, ((1, 100),), 100, 100, draw=5)
    assert drawn.duration_ns(single) == drawn.duration_ns(replace(decodes([100] * 4), draw=5))
    assert drawn.duration_ns(single) != drawn.duration_ns(replace(single, draw=7))
