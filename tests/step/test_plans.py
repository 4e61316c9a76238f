"""Execution plans: closed forms, and no plan beats its resources."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.llm import Parallelism, load_model
from servetwin.network import Link, Ring
from servetwin.step.base import StepShape
from servetwin.step.plans.base import ExecutionPlan, SharedTime, execution_plans
from servetwin.step.plans.lockstep import DUMMY, Lockstep
from servetwin.step.plans.pipeline import Pipeline
from servetwin.step.plans.two_batch_overlap import Half, TwoBatchOverlap, cut_shape, makespan_ns
from servetwin.step.roofline import RooflineStepModel
from servetwin.testing.plans import ExecutionPlanConformance
from servetwin.testing.step_models import decode_shapes, step_shapes

QWEN = load_model("Qwen/Qwen3-30B-A3B")
H100 = load_device("H100-SXM")
RING = Ring(Link(450e9, 100.0, 4_000.0))
TWO = Parallelism(data=2, expert=2)
SHARED = RooflineStepModel(QWEN, H100, collectives=RING, ranks=TWO)
DEEPEP = RooflineStepModel(QWEN, H100, collectives=RING, ranks=TWO, all2all_backend="deepep_low_latency")


class Plain:
    """A rank model of round numbers: a token costs 1 us, a sequence 10, sharing 1 us per token of the group."""

    needs = frozenset[str]()

    def __init__(self, graph_limit: int = 512) -> None:
        self.notices: list[str] = []
        self.graph_limit = graph_limit
        self.asked: list[tuple[int, int]] = []

    def own_ns(self, shape: StepShape, num_tokens: int, num_sequences: int) -> float:
        """Return the cost of rows."""
        self.asked.append((num_tokens, num_sequences))
        return 1000.0 * num_tokens + 10_000.0 * num_sequences

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """Return the cost of all tokens."""
        return 1000.0 * sum(tokens)

    def send_ns(self, num_tokens: int) -> float:
        """Return 2 ns per token."""
        return 2.0 * num_tokens


class Parts(Plain):
    """The same, with layers whose parts overlap."""

    expert_layers = 10
    overlap_slowdown = 1.0

    def once_ns(self, num_sequences: int) -> float:
        """Return the sequences' part."""
        return 10_000.0 * num_sequences

    def shared_parts_ns(self, tokens: Sequence[int], draw: int) -> SharedTime:
        """Return as much for sending as for computing, both ways together."""
        return SharedTime(500.0 * sum(tokens), 1000.0 * sum(tokens), 500.0 * sum(tokens))

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """Return the sum of the parts."""
        return self.shared_parts_ns(tokens, draw).total_ns


class TestPipelineConformance(ExecutionPlanConformance):
    """A pipeline of three stages keeps the contract of plans."""

    stages = tuple(
        RooflineStepModel(QWEN, H100, collectives=RING, ranks=Parallelism(2, 3, stage=stage)) for stage in range(3)
    )

    def make(self) -> ExecutionPlan:
        """Return the plan."""
        return Pipeline(self.stages)


class TestLockstepConformance(ExecutionPlanConformance):
    """So does a group of two ranks with two stages."""

    stages = tuple(
        RooflineStepModel(QWEN, H100, collectives=RING, ranks=Parallelism(2, 2, 4, stage, 2)) for stage in range(2)
    )

    def make(self) -> ExecutionPlan:
        """Return the plan."""
        return Lockstep(self.stages, 2)


class TestOverlapConformance(ExecutionPlanConformance):
    """So does one whose batches overlap in halves."""

    def make(self) -> ExecutionPlan:
        """Return the plan."""
        return TwoBatchOverlap([DEEPEP], 2, decode_tokens=2, prefill_tokens=2)


def test_plans_are_found_by_name() -> None:
    """The registry has them all."""
    assert {"pipeline", "lockstep", "two_batch_overlap"} <= set(execution_plans.names())


@given(shape=step_shapes(), stages=st.integers(1, 4))
def test_a_pipeline_takes_a_batch_through_all_layers(shape: StepShape, stages: int) -> None:
    """Stages of one batch, without what they send, take what the whole model takes."""
    whole = RooflineStepModel(QWEN, H100).duration_ns(shape)
    parts = [
        RooflineStepModel(QWEN, H100, collectives=RING, ranks=Parallelism(pipeline=stages, stage=stage))
        for stage in range(stages)
    ]
    times = Pipeline(parts).stage_times_ns([shape])
    assert sum(time.busy_ns for time in times) == pytest.approx(whole, abs=stages + 1)
    assert [time.send_ns > 0 for time in times] == [True] * (stages - 1) + [False]


@given(shape=step_shapes())
def test_a_group_of_one_is_a_plain_replica(shape: StepShape) -> None:
    """A lockstep group of one rank takes what the replica takes."""
    model = RooflineStepModel(QWEN, H100)
    (time,) = Lockstep([model], 1).stage_times_ns([shape])
    assert time.busy_ns == pytest.approx(model.duration_ns(shape), abs=1)
    assert time.send_ns == 0


@given(shapes=st.lists(st.one_of(st.none(), step_shapes()), min_size=2, max_size=2).filter(any))
def test_a_wave_is_no_faster_than_its_slowest_rank(shapes: list[StepShape | None]) -> None:
    """A wave takes at least what each rank takes by itself and what both do together for their tokens."""
    (time,) = Lockstep([SHARED], 2).stage_times_ns(shapes)
    batches = [shape or DUMMY for shape in shapes]
    own = [
        SHARED.own_ns(s, s.num_tokens, s.num_sequences) if given else 0.0
        for s, given in zip(batches, shapes, strict=True)
    ]
    shared = SHARED.shared_ns([shape.num_tokens for shape in batches], 0)
    assert time.busy_ns >= max(own) + shared - 1


def test_ranks_are_padded_to_the_largest_graph() -> None:
    """9 tokens run in a graph of 16; a rank with 3 and an idle one, which has no logits, run as many."""
    model = Plain()
    (time,) = Lockstep([model], 3).stage_times_ns([StepShape(9, 900), None, StepShape(3, 300)])
    assert model.asked == [(16, 9), (16, 0), (16, 3)]
    assert time == (1000 * 16 + 10_000 * 9 + 1000 * 48, 32)


def test_no_rank_is_padded_to_a_batch_without_a_graph() -> None:
    """More than 512 tokens on one rank: none runs a graph, each keeps its own tokens; nor are there any when eager."""
    batches = [StepShape(9, 900, ((600, 0),)), StepShape(9, 900)]
    model = Plain()
    Lockstep([model], 2).stage_times_ns(batches)
    assert model.asked == [(609, 10), (16, 9)]
    eager = Plain(graph_limit=0)
    Lockstep([eager], 2).stage_times_ns([StepShape(9, 900), StepShape(3, 300)])
    assert eager.asked == [(9, 9), (3, 3)]


def test_hosts_agree_once_per_batch() -> None:
    """Synchronisation is added to the first stage of a group, and not to a rank alone."""
    shapes = [StepShape(8, 80), StepShape(8, 80)]
    free = Lockstep([Plain(), Plain()], 2).stage_times_ns(shapes)
    slow = Lockstep([Plain(), Plain()], 2, synchronisation_us=50.0).stage_times_ns(shapes)
    assert [b.busy_ns - a.busy_ns for a, b in zip(free, slow, strict=True)] == [50_000, 0]
    alone = Lockstep([Plain()], 1, synchronisation_us=50.0).stage_times_ns(shapes[:1])
    assert alone[0].busy_ns == 1000 * 8 + 10_000 * 8 + 1000 * 8


halves = st.builds(Half, *[st.floats(0, 1e6)] * 4)


@given(first=halves, second=halves, layers=st.integers(1, 80))
def test_overlap_is_bound_by_both_resources(first: Half, second: Half, layers: int) -> None:
    """Two micro-batches take at least what the accelerator computes, what is exchanged, and what each takes alone.

    And at most as long as one after the other.
    """
    time = makespan_ns(first, second, layers)
    computing = sum(half.own_ns + half.experts_ns for half in (first, second))
    exchanging = sum(half.dispatch_ns + half.combine_ns for half in (first, second))
    least = layers * max(computing, exchanging, sum(first), sum(second))
    assert least * (1 - 1e-6) <= time <= layers * (sum(first) + sum(second)) * (1 + 1e-6)


@given(half=halves, layers=st.integers(4, 80))
def test_repeated_layers_are_extrapolated_exactly(half: Half, layers: int) -> None:
    """The time of many layers is the straight line through those of fewer."""
    near, far = makespan_ns(half, half, layers), makespan_ns(half, half, 2 * layers)
    step = makespan_ns(half, half, layers + 1) - near
    assert far == pytest.approx(near + layers * step, rel=1e-6, abs=1e-3)


def test_equal_parts_hide_all_but_the_ends() -> None:
    """Where computing and exchanging take equally long, each layer costs one half's four parts, not two."""
    half = Half(10.0, 10.0, 10.0, 10.0)
    assert makespan_ns(half, half, 10) == 10 * 40 + 10


@given(shape=step_shapes(), data=st.data())
def test_cutting_a_batch_keeps_its_tokens(shape: StepShape, data: st.DataObject) -> None:
    """Both parts together have the batch's tokens, decodes, contexts and chunks; a cut chunk goes on where it was."""
    tokens = data.draw(st.integers(0, shape.num_tokens))
    first, second = cut_shape(shape, tokens)
    assert first.num_tokens == tokens
    assert first.num_tokens + second.num_tokens == shape.num_tokens
    assert first.num_decodes + second.num_decodes == shape.num_decodes
    assert first.decode_kv_tokens + second.decode_kv_tokens == shape.decode_kv_tokens
    pairs = (sum(new * context + new * (new + 1) // 2 for new, context in part.prefills) for part in (first, second))
    assert sum(pairs) == sum(new * context + new * (new + 1) // 2 for new, context in shape.prefills)


@given(shapes=st.lists(decode_shapes(), min_size=2, max_size=2))
def test_overlap_by_gain_is_never_slower(shapes: list[StepShape]) -> None:
    """Cut where it gains, a wave takes no longer than whole; and no less than all computing, or all exchanging."""
    plan = TwoBatchOverlap([DEEPEP], 2, only_if_faster=True)
    (time,) = plan.stage_times_ns(shapes)
    (whole,) = Lockstep([DEEPEP], 2).stage_times_ns(shapes)
    assert time.busy_ns <= whole.busy_ns
    parts = DEEPEP.shared_parts_ns([shape.num_tokens for shape in shapes], 0)
    assert time.busy_ns >= (parts.dispatch_ns + parts.combine_ns) * (1 - 1e-9)


def test_overlap_hides_what_is_exchanged() -> None:
    """Sending half as long as all computing, equal halves: ten layers of computing, and the ends that stick out."""
    shapes = [StepShape(64, 640)] * 2
    (whole,) = Lockstep([Parts()], 2).stage_times_ns(shapes)
    (cut,) = TwoBatchOverlap([Parts()], 2).stage_times_ns(shapes)
    computing = 1000 * 64 + 1000 * 128
    assert whole.busy_ns == computing + 1000 * 128 + 10_000 * 64
    assert computing < cut.busy_ns - 10_000 * 64 < computing * 1.2


@pytest.mark.parametrize(
    ("shapes", "cut"),
    [
        ([StepShape(32, 320), StepShape(32, 320)], True),
        ([StepShape(32, 320), StepShape(31, 310)], False),
        ([StepShape(32, 320), None], False),
        ([StepShape(32, 320), StepShape(200, 2000)], False),
        ([StepShape(0, 0, ((512, 0),)), StepShape(500, 320, ((12, 0),))], True),
        ([StepShape(0, 0, ((511, 0),)), StepShape(512, 5120)], False),
    ],
)
def test_batches_are_cut_as_vllm_does(shapes: list[StepShape | None], cut: bool) -> None:
    """All ranks need 32 tokens, 512 with prompts, and more than half of the padded ones; an idle rank has none."""
    assert TwoBatchOverlap([Parts()], 2).is_cut(shapes) is cut
    assert not TwoBatchOverlap([Parts()], 1).is_cut(shapes[:1])


def test_overlap_needs_parts_and_a_fitting_backend() -> None:
    """A model that cannot tell its parts apart, and all-gather, are refused."""
    with pytest.raises(InputError, match="Plain does not"):
        TwoBatchOverlap([Plain()], 2)
    with pytest.raises(InputError, match="use deepep_low_latency"):
        TwoBatchOverlap([SHARED], 2)


def test_a_pipeline_is_of_one_rank() -> None:
    """Several ranks need another plan."""
    with pytest.raises(InputError, match="'pipeline' is for one rank, not 2"):
        Pipeline([Plain()], 2)
