"""The step model of a measured profile: runs, monotony, extrapolation, options."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_helpers import decodes, profile

from servetwin.core.errors import InputError
from servetwin.network import Link, Ring
from servetwin.step.base import StepShape, step_models
from servetwin.step.host import HostOverhead
from servetwin.step.profile import LSS_OPTIONS, HostIo, ModelSizes, ProfileOptions, ProfileStepModel

SIZES = ModelSizes(num_layers=4, hidden_size=64)
OPTIONS = {
    "default": ProfileOptions(),
    "graphs": ProfileOptions(token_padding="cuda_graph"),
    "tpu": ProfileOptions(token_padding="power_of_two"),
    "plain": ProfileOptions(skew="none"),
    "merged": ProfileOptions(merge_prefills=True),
    "fitted skew": ProfileOptions(skew="lss"),
    "lss": LSS_OPTIONS,
    "lss, unmerged": ProfileOptions("lss", "none"),
    "lss, longest": ProfileOptions("lss", "longest", merge_prefills=True),
}


@cache
def model(options: str = "default", attention: str = "joint", seed: int = 0, ranks: int = 1) -> ProfileStepModel:
    """Return a small model."""
    table = profile(seed, attention, ranks=ranks)
    ring = Ring(Link(1e9, 500)) if ranks > 1 else None
    return ProfileStepModel(table, SIZES, options=OPTIONS[options], collectives=ring, host=HostOverhead(7.3, 0.11))


models = st.builds(model, st.sampled_from(sorted(OPTIONS)), st.sampled_from(["joint", "additive"]), st.integers(0, 2))
own_models = st.builds(
    model,
    st.sampled_from(["default", "graphs", "tpu", "plain"]),
    st.sampled_from(["joint", "additive"]),
    st.integers(0, 2),
)
contexts = st.lists(st.integers(0, 3000), max_size=40)
chunks = st.lists(st.tuples(st.integers(1, 1200), st.integers(0, 3000)), max_size=4)


@given(models, st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.integers(1, 700), st.integers(1, 10**9))
@settings(deadline=None)
def test_run_equals_stepping(model: ProfileStepModel, kv: list[int], max_steps: int, limit_ns: int) -> None:
    """A run's durations equal those of its steps one by one, and it ends at the limit."""
    run = list(model.decode_run_ns(decodes(kv), max_steps, limit_ns))
    assert run == [model.duration_ns(decodes([k + i for k in kv])) for i in range(len(run))]
    assert sum(run[:-1]) < limit_ns
    assert len(run) == max_steps or sum(run) >= limit_ns


@given(models, contexts, chunks)
@settings(deadline=None)
def test_breakdown_sums_to_the_duration(
    model: ProfileStepModel, kv: list[int], prefills: list[tuple[int, int]]
) -> None:
    """The parts of any step are at least 0 and add up to its duration, rounded once."""
    shape = decodes(kv, *prefills)
    parts = model.breakdown_ns(shape)
    assert min(parts.values()) >= 0
    assert abs(max(1, sum(parts.values())) - model.duration_ns(shape)) <= 0.5 + 1e-6 * sum(parts.values())


@given(own_models, contexts, chunks, st.data())
@settings(deadline=None, max_examples=300)
def test_more_work_never_takes_less_time(
    model: ProfileStepModel, kv: list[int], prefills: list[tuple[int, int]], data: st.DataObject
) -> None:
    """More context, a longer chunk, one more decode or one more chunk never shorten a step."""
    more_kv = [k + data.draw(st.sampled_from([0, 0, 1, 17, 900])) for k in kv]
    more_prefills = [
        (new + data.draw(st.sampled_from([0, 1, 40])) * (new > 1), context + data.draw(st.sampled_from([0, 1, 300])))
        for new, context in prefills
    ]
    more_kv += data.draw(st.lists(st.integers(max(kv, default=0), 4000), max_size=2))
    more_prefills += data.draw(st.lists(st.tuples(st.integers(2, 900), st.integers(0, 900)), max_size=2))
    assert model.duration_ns(decodes(more_kv, *more_prefills)) >= model.duration_ns(decodes(kv, *prefills))


@given(models, contexts, chunks)
@settings(deadline=None)
def test_a_chunk_of_one_token_is_a_decode(
    model: ProfileStepModel, kv: list[int], prefills: list[tuple[int, int]]
) -> None:
    """It makes no difference whether a single token ends a prompt or continues an answer."""
    single = [(new, context) for new, context in prefills if new == 1]
    rest = [chunk for chunk in prefills if chunk[0] > 1]
    moved = decodes([*kv, *(context for _, context in single)], *rest)
    assert model.duration_ns(decodes(kv, *prefills)) == model.duration_ns(moved)


@given(st.permutations([(100, 0), (30, 400), (250, 64), (2, 0)]), st.sampled_from(sorted(OPTIONS)))
def test_order_of_chunks_does_not_matter(prefills: list[tuple[int, int]], options: str) -> None:
    """Chunks are a set, where they are summed up or merged (LLMServingSim unmerged has no rule to compare with)."""
    if options != "lss, unmerged":
        reference = model(options).duration_ns(decodes([300] * 5, (2, 0), (30, 400), (100, 0), (250, 64)))
        assert model(options).duration_ns(decodes([300] * 5, *prefills)) == pytest.approx(reference, abs=1)


def attention_ns(shape: StepShape, attention: str = "joint") -> float:
    """Return one layer's attention without skew."""
    return model("plain", attention).breakdown_ns(shape)["attention"] / SIZES.num_layers


def test_chunks_beyond_the_grid_grow_quadratically() -> None:
    """Four and eight times the longest measured chunk without context take 16 and 64 times its quadratic part."""
    longest = 256
    pair = 5 * longest * longest / 2
    for times in (4, 8):
        assert attention_ns(decodes([], (times * longest, 0))) == pytest.approx(times**2 * pair, rel=0.25)


def test_context_beyond_the_grid_grows_linearly() -> None:
    """Far beyond the last context each further token costs what a token costs inside."""
    per_token = [attention_ns(decodes([], (256, context + 1000))) - attention_ns(decodes([], (256, context)))
                 for context in (1000, 5000)]  # fmt: skip
    assert per_token[0] == pytest.approx(1000 * 5 * 256, rel=0.25)
    assert per_token[1] == pytest.approx(per_token[0])
    decode = attention_ns(decodes([9000] * 8)) - attention_ns(decodes([8000] * 8))
    assert decode == pytest.approx(8 * 1000 * 3, rel=0.25)


def test_decodes_beyond_the_grid_go_on() -> None:
    """Three times the greatest measured batch costs about three times as much, alone and beside a chunk."""
    for prefills, rate in (((), 1.0), (((64, 0),), 1.6)):
        more = attention_ns(decodes([512] * 48, *prefills)) - attention_ns(decodes([512] * 16, *prefills))
        assert more == pytest.approx(32 * rate * (100 + 3 * 512), rel=0.25)


def test_clamped_ends_of_fits_are_continued() -> None:
    """Where a fitted table is constant at its end, more decodes and longer chunks still take longer."""
    assert attention_ns(decodes([256] * 30), "additive") > 1.1 * attention_ns(decodes([256] * 24), "additive")
    assert attention_ns(decodes([], (600, 0)), "additive") > 1.1 * attention_ns(decodes([], (384, 0)), "additive")


def test_far_extrapolation_is_said_once_per_axis() -> None:
    """Beyond four times a table's end there is one notice per axis, and none before."""
    stepped = ProfileStepModel(profile(), SIZES)
    for _ in range(2):
        stepped.duration_ns(decodes([4000] * 60, (900, 2000)))
    assert stepped.notices == []
    for _ in range(2):
        stepped.duration_ns(decodes([5000] * 70, (1100, 3000)))
    axes = ["tokens in a step", "sequences", "prefill chunk reached", "context tokens of a prefill", "mean context"]
    assert len(stepped.notices) == len(axes)
    assert all(any(axis in notice for notice in stepped.notices) for axis in axes)


def test_the_longest_sequence_bounds_a_batch_that_is_not_split() -> None:
    """From eight decodes on a step takes at least as long as one thread block needs for the longest context."""
    skewed, equal = decodes([10] * 9 + [2000]), decodes([209] * 10)
    bound = model("default").breakdown_ns(skewed)["attention"] / SIZES.num_layers
    assert bound >= 60 * 2000
    assert model("default").breakdown_ns(equal)["attention"] < 0.5 * bound * SIZES.num_layers
    few = decodes([10] * 6 + [2000])
    assert model("default").breakdown_ns(few)["attention"] == model("plain").breakdown_ns(few)["attention"]


def test_graph_padding_reaches_the_unsplit_kernel() -> None:
    """Five decodes run in the CUDA graph of eight, and so are bounded as eight are; without graphs they are not."""
    shape = decodes([10] * 4 + [2000])
    graphs, none = (model(name).breakdown_ns(shape)["attention"] for name in ("graphs", "default"))
    assert graphs >= SIZES.num_layers * 60 * 2000 > none


def test_padding_of_tokens() -> None:
    """Dense layers are computed for the padded tokens."""
    for options, tokens, padded in (("graphs", 9, 16), ("graphs", 250, 256), ("tpu", 33, 64), ("tpu", 3, 16)):
        own = model(options).breakdown_ns(decodes([], (tokens, 0)))
        assert own["down_proj"] == model("plain").breakdown_ns(decodes([], (padded, 0)))["down_proj"]


def test_parts_that_the_host_and_the_links_add() -> None:
    """Two all-reduces per block, the host's overhead, and token ids through host memory, each by its formula."""
    table = profile(padding="cuda_graph", ranks=2)
    whole = ProfileStepModel(
        table, SIZES, collectives=Ring(Link(1e9, 500)), host=HostOverhead(3.0, 0.5), host_io=HostIo(2e9, 10.0)
    )
    parts = whole.breakdown_ns(decodes([50] * 8, (8, 0)))
    assert parts["all_reduce"] == 2 * 4 * 2 * (500 + 16 * 64 * 2 / 2)
    assert parts["host"] == 3_000 + 9 * 500 + 4 * 125_000
    assert parts["host_io"] == (10 + 2 * 16 * 2 / 2) + (10 + 4 * 16 / 2)
    assert whole.breakdown_ns(decodes([50] * 8))["host"] == 3_000 + 8 * 500


def test_tensor_parallelism_needs_a_link() -> None:
    """A degree above one without the cost of an all-reduce is an error."""
    with pytest.raises(InputError, match="needs a link"):
        ProfileStepModel(profile(ranks=2), SIZES)


def test_needs_extremes_only_where_skew_counts() -> None:
    """The engine keeps extremes of contexts only for models that read them."""
    assert model("default").needs == model("lss").needs == {"kv_extremes"}
    assert model("plain").needs == model("default", "additive").needs - {"kv_extremes"} == frozenset()


def test_registered() -> None:
    """A scenario finds it by name."""
    assert step_models.get("profile").__name__ == "profile_step_model"
