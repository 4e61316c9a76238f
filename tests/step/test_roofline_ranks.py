"""The roofline as a rank model: stages, data, expert and context parallelism, never faster than the hardware."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.llm import Parallelism, load_model
from servetwin.network import Link, Ring
from servetwin.step.base import StepShape
from servetwin.step.context_parallel import part_of_rank
from servetwin.step.efficiency import Efficiency
from servetwin.step.experts.base import ExpertLoad, LayerLoads
from servetwin.step.host import NO_HOST_OVERHEAD, HostOverhead
from servetwin.step.kernels import causal_pairs
from servetwin.step.roofline import RooflineStepModel
from servetwin.testing.step_models import StepModelConformance, step_shapes

QWEN = load_model("Qwen/Qwen3-30B-A3B")
LLAMA = load_model("meta-llama/Llama-3.1-8B")
DEEPSEEK = load_model("deepseek-ai/DeepSeek-V3")
H100 = load_device("H100-SXM")
H200 = load_device("H200-SXM")
RING = Ring(Link(450e9, 100.0, 4_000.0))
PERFECT = Efficiency(**{item.name: 0.0 if item.metadata["unit"] == "us" else 1.0 for item in fields(Efficiency)})

PLACES = [
    Parallelism(2, expert=2),
    Parallelism(2, data=2),
    Parallelism(data=4, expert=4),
    Parallelism(2, data=2, expert=4),
    Parallelism(4, data=2, expert=2),
    Parallelism(8, decode_context=2),
    Parallelism(prefill_context=4),
    Parallelism(2, prefill_context=2, expert=4),
    Parallelism(2, 3, 4, 1, 2),
    Parallelism(1, 2, stage=1),
]


class Skewed:
    """A routing that sends a growing part of all pairs to the first rank, in two kinds of layers."""

    def __init__(self, ranks: int, drawn: bool = False) -> None:
        self.ranks = ranks
        self.needs = frozenset({"draw"}) if drawn else frozenset[str]()

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> list[LayerLoads]:
        """Give the first rank half of the pairs, or more by the draw, the others equal parts of the rest."""
        found = []
        for layers, share in ((num_layers - num_layers // 2, 0.5), (num_layers // 2, 0.7 + draw % 3 / 10)):
            part = np.full(self.ranks, (1 - share) / max(1, self.ranks - 1))
            part[0] = share if self.ranks > 1 else 1.0
            pairs = tokens * QWEN_TOP_K * part
            experts = np.minimum(pairs, 128 / self.ranks)
            found.append(LayerLoads(layers, ExpertLoad(np.minimum(pairs, tokens), pairs, experts)))
        return [entry for entry in found if entry.num_layers]


QWEN_TOP_K = 8


@st.composite
def rank_models(draw: st.DrawFn) -> RooflineStepModel:
    """Draw a model at one of the places, in any mode of exchanging tokens, evenly routed or not."""
    ranks = draw(st.sampled_from(PLACES))
    architecture = draw(st.sampled_from([QWEN, DEEPSEEK]))
    if ranks.decode_context > 1 and architecture is DEEPSEEK:
        ranks = replace(ranks, decode_context=8)
    backends = ["allgather_reducescatter"]
    if ranks.expert == ranks.experts_group:
        backends += ["deepep_high_throughput", "deepep_low_latency"]
    routing = draw(st.sampled_from([None, Skewed(ranks.expert), Skewed(ranks.expert, drawn=True)]))
    return RooflineStepModel(
        architecture,
        H200,
        collectives=RING,
        ranks=ranks,
        host=draw(st.sampled_from([NO_HOST_OVERHEAD, HostOverhead(100.0, 1.5)])),
        efficiency=draw(st.sampled_from([None, PERFECT])),
        enforce_eager=draw(st.booleans()),
        experts=routing if architecture is QWEN else None,
        all2all_backend=draw(st.sampled_from(backends)),
    )


class TestConformanceWithDataAndExpertParallelism(StepModelConformance):
    """A replica of data-parallel ranks with one batch each keeps the contract of step models."""

    model = RooflineStepModel(QWEN, H100, collectives=RING, ranks=Parallelism(2, data=2, expert=4))

    def make(self) -> RooflineStepModel:
        """Return one model."""
        return self.model


class TestConformanceWithDrawnExperts(TestConformanceWithDataAndExpertParallelism):
    """So does one whose experts are drawn anew in each step."""

    model = RooflineStepModel(
        QWEN, H100, collectives=RING, ranks=Parallelism(2, expert=2), experts=Skewed(2, drawn=True)
    )


class TestConformanceWithContextParallelism(TestConformanceWithDataAndExpertParallelism):
    """So does one whose ranks divide prompts and contexts."""

    model = RooflineStepModel(LLAMA, H100, collectives=RING, ranks=Parallelism(16, decode_context=2, prefill_context=2))


@given(model=rank_models(), shape=step_shapes())
@settings(max_examples=100)
def test_no_rank_is_faster_than_its_hardware(model: RooflineStepModel, shape: StepShape) -> None:
    """No operator of a rank, nor its own and shared parts together, beat max(FLOPs / peak, bytes / bandwidth)."""
    peak = max(model.device.peak_flops.values())
    parts = model.breakdown_ns(shape)
    least = 0.0
    for name, (flops, num_bytes) in model.work(shape).items():
        bound = 1e9 * max(flops / peak, num_bytes / model.device.memory_bandwidth_bytes_per_s)
        assert parts[name] >= bound * (1 - 1e-12)
        least += bound
    assert model.duration_ns(shape) >= least * (1 - 1e-12) - 1


@given(model=rank_models(), shape=step_shapes())
def test_own_and_shared_parts_are_the_step(model: RooflineStepModel, shape: StepShape) -> None:
    """A step takes what its ranks do by themselves and what they do together; the breakdown says the same."""
    tokens = shape.num_tokens
    parts = model.own_ns(shape, tokens, shape.num_sequences), model.shared_ns((tokens,) * model.ranks.data, shape.draw)
    assert model.duration_ns(shape) == pytest.approx(sum(parts), abs=1)
    assert sum(model.breakdown_ns(shape).values()) == pytest.approx(sum(parts), abs=1)
    assert sum(model.bounds_ns(shape).values()) == pytest.approx(sum(parts), abs=1)


@given(shape=step_shapes(), stages=st.integers(2, 6), tensor=st.sampled_from([1, 4]))
def test_stages_add_up_to_the_model(shape: StepShape, stages: int, tensor: int) -> None:
    """The stages' times, host once, are those of the whole model: each layer is in one of them."""

    def of(ranks: Parallelism) -> int:
        return RooflineStepModel(DEEPSEEK, H200, collectives=RING, ranks=ranks).duration_ns(shape)

    parts = [of(Parallelism(tensor, stages, stage=stage)) for stage in range(stages)]
    assert sum(parts) == pytest.approx(of(Parallelism(tensor)), abs=stages + 1)


def test_a_partition_moves_layers_between_stages() -> None:
    """A stage with twice the layers takes about twice the time."""

    def of(stage: int) -> float:
        ranks = Parallelism(pipeline=3, stage=stage, partition=(8, 16, 8))
        model = RooflineStepModel(LLAMA, H100, collectives=RING, ranks=ranks, host=NO_HOST_OVERHEAD)
        return model.own_ns(StepShape(8, 8000), 8, 8)

    assert of(1) == pytest.approx(2 * of(0), rel=0.01)


def test_what_is_sent_to_the_next_stage() -> None:
    """Hidden states and residual go in two messages; with tensor parallelism a part each, which is gathered."""
    one = RooflineStepModel(LLAMA, H100, collectives=RING, ranks=Parallelism(pipeline=2))
    four = RooflineStepModel(LLAMA, H100, collectives=RING, ranks=Parallelism(4, 2))
    share = one.efficiency.collective_bandwidth
    size = 256 * 4096 * 2 / share
    assert one.send_ns(256) == pytest.approx(2 * RING.send_ns(size))
    assert four.send_ns(256) == pytest.approx(2 * (RING.send_ns(size / 4) + RING.all_gather_ns(size, 4)))
    last = RooflineStepModel(LLAMA, H100, collectives=RING, ranks=Parallelism(pipeline=2, stage=1))
    assert last.send_ns(256) == 0.0


class Protocols:
    """Collectives that know their protocols: not a plain ring, though as fast."""

    all_reduce_ns = RING.all_reduce_ns
    all_gather_ns = RING.all_gather_ns
    reduce_scatter_ns = RING.reduce_scatter_ns
    all_to_all_ns = RING.all_to_all_ns
    broadcast_ns = RING.broadcast_ns
    send_ns = RING.send_ns


def test_only_plain_rings_are_slowed_down() -> None:
    """The share of a link's bandwidth is a plain ring's; collectives with protocols are taken as they are."""
    plain = RooflineStepModel(LLAMA, H100, 2, RING).breakdown_ns(StepShape(0, 0, ((512, 0),)))["all_reduce"]
    known = RooflineStepModel(LLAMA, H100, 2, Protocols()).breakdown_ns(StepShape(0, 0, ((512, 0),)))["all_reduce"]
    assert known == pytest.approx(65 * RING.all_reduce_ns(512 * 4096 * 2, 2))
    assert plain > known


def test_experts_meet_the_tokens_of_all_ranks() -> None:
    """All-gather sends every token to all ranks, all-to-all to the ranks or the experts that it needs."""
    size, hidden = 2, QWEN.hidden_size
    times = {}
    for backend in ("allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"):
        ranks = Parallelism(data=8, expert=8)
        model = RooflineStepModel(QWEN, H100, collectives=RING, ranks=ranks, all2all_backend=backend)
        times[backend] = model.shared_parts_ns([64] * 8, 0)
    share = model.efficiency.collective_bandwidth
    token = hidden * size + 8 * 8
    gathered = 48 * RING.all_gather_ns(512 * token / share, 8)
    assert times["allgather_reducescatter"].dispatch_ns == pytest.approx(gathered)
    scattered = 48 * RING.reduce_scatter_ns(512 * hidden * size / share, 8)
    assert times["allgather_reducescatter"].combine_ns == pytest.approx(scattered)
    every = 48 * RING.all_to_all_ns(64 * 8 * token / share, 8)
    assert times["deepep_low_latency"].dispatch_ns == pytest.approx(every)
    assert times["deepep_high_throughput"].dispatch_ns < times["deepep_low_latency"].dispatch_ns
    assert times["deepep_low_latency"].experts_ns < times["allgather_reducescatter"].experts_ns


def test_the_slowest_rank_counts() -> None:
    """A skewed routing takes longer than an even one; whose tokens they are does not matter to the experts."""
    ranks = Parallelism(data=4, expert=4)
    even = RooflineStepModel(QWEN, H100, collectives=RING, ranks=ranks)
    skewed = RooflineStepModel(QWEN, H100, collectives=RING, ranks=ranks, experts=Skewed(4))
    tokens = [2048] * 4
    assert skewed.shared_parts_ns(tokens, 0).experts_ns > 1.5 * even.shared_parts_ns(tokens, 0).experts_ns
    assert even.shared_ns([2400, 200, 200, 200], 0) == pytest.approx(even.shared_ns([750] * 4, 0))


def test_drawn_experts_differ_from_step_to_step() -> None:
    """A routing that draws is asked in each step, and the model says that it needs the draw."""
    model = RooflineStepModel(QWEN, H100, 2, RING, ranks=Parallelism(2, expert=2), experts=Skewed(2, drawn=True))
    assert model.needs == {"draw"}
    first, second = (model.duration_ns(StepShape(100, 1000, draw=draw)) for draw in (0, 1))
    assert second > first
    assert model.decode_run_ns(StepShape(100, 1000), 2, 10**12)[1] > first


def test_tensor_parallel_experts_over_data_ranks_are_slices() -> None:
    """Without expert parallelism two ranks of data parallelism halve each expert and gather all tokens."""
    alone = RooflineStepModel(QWEN, H100, host=NO_HOST_OVERHEAD)
    shared = RooflineStepModel(QWEN, H100, collectives=RING, data_parallel_size=2)
    parts = shared.shared_parts_ns([16, 16], 0)
    assert parts.dispatch_ns > 0
    assert parts.experts_ns < alone.shared_parts_ns([32], 0).experts_ns


def test_stages_without_experts_share_nothing() -> None:
    """DeepSeek's first three layers are dense."""
    ranks = Parallelism(pipeline=2, data=2, expert=2, partition=(3, 58))
    model = RooflineStepModel(DEEPSEEK, H100, collectives=RING, ranks=ranks)
    assert model.shared_ns([8, 8], 0) == 0.0
    assert model.expert_layers == 0


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 5000)), min_size=1, max_size=3), st.integers(2, 8))
def test_ranks_that_divide_a_prompt_have_equal_shares(chunks: list[tuple[int, int]], ranks: int) -> None:
    """Two slices of each chunk are, but for rounding up, one of ``ranks`` parts of its tokens and of its pairs."""
    part = part_of_rank(StepShape(2, 50, tuple(chunks)), ranks)
    assert part.num_decodes == 2
    for index, (new, context) in enumerate(chunks):
        slices = part.prefills[2 * index : 2 * index + 2]
        size = -(-new // (2 * ranks))
        whole = 2 * ranks * size
        assert sum(tokens for tokens, _ in slices) == 2 * size
        assert ranks * sum(causal_pairs(*slice_, 0) for slice_ in slices) == causal_pairs(whole, context, 0)


def test_dividing_a_long_prompt_pays() -> None:
    """Four ranks take between a quarter and a half of the time of one for 32k tokens, and longer for 16."""
    one = RooflineStepModel(LLAMA, H100)
    four = RooflineStepModel(LLAMA, H100, collectives=RING, ranks=Parallelism(prefill_context=4))
    long, short = StepShape(0, 0, ((32_768, 0),)), StepShape(0, 0, ((16, 0),))
    assert 0.25 < four.duration_ns(long) / one.duration_ns(long) < 0.5
    assert four.duration_ns(short) > one.duration_ns(short)


def test_dividing_contexts_pays_where_they_are_long() -> None:
    """Eight ranks that keep an eighth of the compressed context each beat eight whole copies at 100k tokens only."""
    whole = RooflineStepModel(DEEPSEEK, H200, 8, RING)
    divided = RooflineStepModel(DEEPSEEK, H200, collectives=RING, ranks=Parallelism(8, decode_context=8))
    long, short = StepShape(32, 32 * 100_000), StepShape(32, 32 * 100)
    assert divided.duration_ns(long) < whole.duration_ns(long)
    assert divided.duration_ns(short) > whole.duration_ns(short)
    seen = (model.work(long)["attention_decode"].num_bytes for model in (whole, divided))
    assert next(seen) > 4 * next(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": Parallelism(pipeline=2)}, "pipeline_parallel_size 2 needs a link"),
        ({"data_parallel_size": 2}, "data_parallel_size 2 needs a link"),
        ({"ranks": Parallelism(2), "tensor_parallel_size": 4}, "tensor_parallel_size 4 .* not those of the ranks"),
        ({"all2all_backend": "deepep"}, "unknown all2all_backend 'deepep'; did you mean 'deepep_"),
        ({"all2all_backend": "deepep_low_latency", "ranks": Parallelism(2), "collectives": RING}, "all 2 ranks, not 1"),
        ({"ranks": Parallelism(3), "collectives": RING}, "tensor_parallel_size 3 does not divide"),
    ],
)
def test_places_that_cannot_be_modelled_are_refused(options: dict[str, object], message: str) -> None:
    """A missing link, contradicting sizes, unknown or unfit ways to exchange tokens are errors."""
    with pytest.raises(InputError, match=message):
        RooflineStepModel(QWEN, H100, **options)  # type: ignore[arg-type]


def test_removed_backends_are_replaced_aloud() -> None:
    """As in vLLM, ``naive`` and ``pplx`` mean the default now, and a notice says so."""
    model = RooflineStepModel(QWEN, H100, collectives=RING, data_parallel_size=2, all2all_backend="pplx")
    assert model.all2all_backend == "allgather_reducescatter"
    assert "pplx" in model.notices[0]
