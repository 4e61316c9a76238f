"""Attention/FFN disaggregation: the ping-pong's makespan, its bounds, both sides on a roofline."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.llm import Parallelism, load_model
from servetwin.llm.operators import operators
from servetwin.memory.ffn_memory import FfnMemory, ffn_ranks
from servetwin.network import Link, Ring
from servetwin.step.base import StepShape
from servetwin.step.ffn_side import FfnSide
from servetwin.step.plans.attention_ffn import AttentionFfn, MicroBatch, deal, makespan_ns
from servetwin.step.plans.base import ExecutionPlan, FfnTime, SharedTime, execution_plans
from servetwin.step.plans.lockstep import Lockstep
from servetwin.step.roofline import RooflineStepModel
from servetwin.testing.plans import ExecutionPlanConformance, waves
from servetwin.testing.step_models import step_shapes

QWEN = load_model("Qwen/Qwen3-30B-A3B")
LLAMA = load_model("meta-llama/Llama-3.1-8B")
DEEPSEEK = load_model("deepseek-ai/DeepSeek-V3")
H100, H20 = load_device("H100-SXM"), load_device("H20")
NO_LINK = Link(1e30, 0.0)
PORT = Link(50e9, 10_000.0)
ATTENTION = Parallelism(part="attention")

few = settings(max_examples=30)
times = st.floats(0.0, 1e4)
micro_batches = st.lists(st.builds(MicroBatch, times, times, times, times), min_size=1, max_size=5)


class Attention:
    """Attention of round numbers: 1 us per token, 10 us per sequence once."""

    needs = frozenset[str]()
    graph_limit = 0
    expert_layers = 0
    overlap_slowdown = 1.0

    def __init__(self) -> None:
        self.notices: list[str] = []

    def own_ns(self, shape: StepShape, num_tokens: int, num_sequences: int) -> float:
        """Return both parts."""
        return 1000.0 * num_tokens + self.once_ns(num_sequences)

    def once_ns(self, num_sequences: int) -> float:
        """Return the sequences' part."""
        return 10_000.0 * num_sequences

    def shared_ns(self, tokens: Sequence[int], draw: int) -> float:
        """Return nothing: experts lie elsewhere."""
        return 0.0

    def shared_parts_ns(self, tokens: Sequence[int], draw: int) -> SharedTime:
        """Return nothing."""
        return SharedTime(0.0, 0.0, 0.0)

    def send_ns(self, num_tokens: int) -> float:
        """Return nothing."""
        return 0.0


class Ffn:
    """FFNs that take a fixed time, and a time per token of the links and of the devices."""

    needs = frozenset[str]()
    num_layers = 10

    def __init__(self, fixed_ns: float = 0.0, token_ns: float = 1000.0, sent_ns: float = 0.0, delay_ns: float = 0.0):
        self.notices: list[str] = []
        self.delay_ns = delay_ns
        self._fixed_ns, self._token_ns, self._sent_ns = fixed_ns, token_ns, sent_ns

    def parts_ns(self, tokens: Sequence[int], draw: int) -> FfnTime:
        """Return times that are affine in all tokens."""
        total = sum(tokens)
        return FfnTime(self._sent_ns * total, self._fixed_ns + self._token_ns * total, self._sent_ns * total)


def on_rooflines(
    model: str = "moe", devices: int = 2, port: Link = PORT, ranks: int = 2, **options: object
) -> AttentionFfn:
    """Return a plan of H20 that attend and H100 that hold the FFNs."""
    architecture = {"moe": QWEN, "dense": LLAMA, "mixed": DEEPSEEK}[model]
    ffn = RooflineStepModel(
        architecture, H100, collectives=Ring(NO_LINK), ranks=ffn_ranks(architecture, devices),
        all2all_backend="deepep_high_throughput" if architecture.is_moe else "allgather_reducescatter",
    )  # fmt: skip
    attention = RooflineStepModel(architecture, H20, ranks=ATTENTION)
    return AttentionFfn([attention], ranks, FfnSide(ffn, port), **options)  # type: ignore[arg-type]


class TestMoeConformance(ExecutionPlanConformance):
    """A plan of two attention ranks and two devices with experts keeps the contract of plans."""

    plan = on_rooflines()

    def make(self) -> ExecutionPlan:
        """Return the plan."""
        return self.plan


class TestDenseConformance(ExecutionPlanConformance):
    """So does one of a model without experts, with a fixed number of micro-batches."""

    plan = on_rooflines("dense", micro_batches=3)

    def make(self) -> ExecutionPlan:
        """Return the plan."""
        return self.plan


def simulated_ns(parts: Sequence[MicroBatch], layers: int, delay_ns: float) -> float:
    """Return the makespan by events: four servers in a ring, each serving in the order of arrival."""
    queues: list[deque[int]] = [deque(range(len(parts))), deque(), deque(), deque()]
    idle = [True] * 4
    visits = [0] * len(parts)
    events: list[tuple[float, int, int, int, str]] = []
    now = last = 0.0
    number = 0

    def begin(server: int) -> None:
        nonlocal number
        if idle[server] and queues[server]:
            batch = queues[server].popleft()
            idle[server] = False
            number += 1
            heapq.heappush(events, (now + parts[batch][server], number, server, batch, "end"))

    begin(0)
    while events:
        now, _, server, batch, kind = heapq.heappop(events)
        if kind == "arrive":
            queues[server].append(batch)
            begin(server)
            continue
        idle[server] = True
        begin(server)
        arrives = now + (delay_ns if server % 2 else 0.0)
        visits[batch] += 1
        if visits[batch] == 4 * layers:
            last = max(last, arrives)
            continue
        number += 1
        heapq.heappush(events, (arrives, number, (server + 1) % 4, batch, "arrive"))
    return last


@given(parts=micro_batches, layers=st.integers(1, 12), delay=times)
def test_the_makespan_is_that_of_a_ring_of_four_servers(parts: list[MicroBatch], layers: int, delay: float) -> None:
    """Layer by layer and extrapolated, unequal micro-batches end when an event simulation says."""
    assert makespan_ns(parts, layers, delay) == pytest.approx(simulated_ns(parts, layers, delay), rel=1e-9)


@given(
    part=st.builds(MicroBatch, times, times, times, times),
    number=st.integers(1, 5),
    layers=st.integers(1, 12),
    delay=times,
)
def test_equal_micro_batches_have_a_closed_form(part: MicroBatch, number: int, layers: int, delay: float) -> None:
    """So do equal ones, in closed form."""
    found = makespan_ns([part] * number, layers, delay)
    assert found == pytest.approx(simulated_ns([part] * number, layers, delay), rel=1e-9)


@given(parts=micro_batches, layers=st.integers(1, 100), delay=times)
def test_no_resource_and_no_micro_batch_is_outrun(parts: list[MicroBatch], layers: int, delay: float) -> None:
    """It takes at least what each resource works, and each micro-batch alone; at most all of it in a row."""
    found = makespan_ns(parts, layers, delay)
    alone = [sum(part) + 2 * delay for part in parts]
    least = layers * max(*map(sum, zip(*parts, strict=True)), *alone)
    assert least * (1 - 1e-9) <= found <= layers * sum(alone) * (1 + 1e-9)


@few
@given(shapes=waves(2), number=st.integers(1, 4))
def test_a_step_is_no_faster_than_either_side_or_the_link(shapes: list[StepShape | None], number: int) -> None:
    """The same holds of a step, and resources are never busy for longer than it lasts."""
    use = on_plan(number).use_of(shapes)
    assert max(use.attention_ns, use.ffn_ns, use.dispatch_ns, use.combine_ns) <= use.total_ns * (1 + 1e-9)
    assert all(0 <= share <= 1 + 1e-9 for share in use.shares.values())


def on_plan(number: int, ranks: int = 2) -> AttentionFfn:
    """Return a plan on rooflines with so many micro-batches, made once for each number."""
    return PLANS.setdefault((number, ranks), on_rooflines(ranks=ranks, micro_batches=number))


PLANS: dict[tuple[int, int], AttentionFfn] = {}


@few
@given(shapes=waves(2))
def test_one_micro_batch_is_all_in_a_row(shapes: list[StepShape | None]) -> None:
    """With one micro-batch, nothing overlaps."""
    use = on_plan(1).use_of(shapes)
    parts = use.attention_ns + use.dispatch_ns + use.ffn_ns + use.combine_ns + use.latency_ns
    assert use.total_ns == pytest.approx(parts)


@pytest.mark.parametrize("architecture", [LLAMA, QWEN, DEEPSEEK], ids=lambda model: model.name)
@few
@given(shape=step_shapes())
def test_both_sides_on_one_device_are_a_plain_replica(architecture: object, shape: StepShape) -> None:
    """One rank, one FFN device, a link that costs nothing, one micro-batch: what the undivided model takes."""
    whole, plan = SAME[architecture.name]  # type: ignore[attr-defined]
    (time,) = plan.stage_times_ns([shape])
    assert time.busy_ns == pytest.approx(whole.duration_ns(shape), abs=2)


def same_device(architecture: object) -> tuple[RooflineStepModel, AttentionFfn]:
    """Return a replica, and the same divided."""
    attention = RooflineStepModel(architecture, H100, ranks=ATTENTION)  # type: ignore[arg-type]
    ffn = RooflineStepModel(architecture, H100, ranks=Parallelism(part="ffn"))  # type: ignore[arg-type]
    plan = AttentionFfn([attention], 1, FfnSide(ffn, NO_LINK), micro_batches=1)
    return RooflineStepModel(architecture, H100), plan  # type: ignore[arg-type]


SAME = {model.name: same_device(model) for model in (LLAMA, QWEN, DEEPSEEK)}


@few
@given(shapes=waves(2), alike=st.booleans())
def test_equal_devices_and_no_link_are_a_lockstep_group(shapes: list[StepShape | None], alike: bool) -> None:
    """Two ranks with two FFN devices of their kind, and links that cost nothing: a group that shares the experts.

    Only what comes once is apart: where one rank attends longest and another has most sequences, both count.
    """
    shapes = [next(filter(None, shapes))] * 2 if alike else shapes
    (ours,), (lockstep,) = (plan.stage_times_ns(shapes) for plan in LIKE_A_GROUP)
    if alike:
        assert ours.busy_ns == pytest.approx(lockstep.busy_ns, rel=1e-6, abs=2)
    else:
        assert ours.busy_ns >= lockstep.busy_ns - 2


def like_a_group() -> tuple[ExecutionPlan, ExecutionPlan]:
    """Return the plan, and the group."""
    backend, ring = "deepep_high_throughput", Ring(NO_LINK)
    group = RooflineStepModel(
        QWEN, H100, collectives=ring, ranks=Parallelism(data=2, expert=2), all2all_backend=backend
    )
    ffn = RooflineStepModel(QWEN, H100, collectives=ring, ranks=ffn_ranks(QWEN, 2), all2all_backend=backend)
    attention = RooflineStepModel(QWEN, H100, ranks=ATTENTION)
    return AttentionFfn([attention], 2, FfnSide(ffn, NO_LINK), micro_batches=1), Lockstep([group], 2)


LIKE_A_GROUP = like_a_group()


@few
@given(shapes=waves(2))
def test_auto_is_the_best_number(shapes: list[StepShape | None]) -> None:
    """Left to the plan, the number of micro-batches is one of those with the least time."""
    auto = TestMoeConformance.plan.use_of(shapes)
    most = max(shape.num_tokens for shape in shapes if shape)
    fixed = [on_plan(number).use_of(shapes).total_ns for number in range(1, min(4, most) + 1)]
    assert auto.total_ns == pytest.approx(min(fixed))


@given(shape=step_shapes(), number=st.integers(1, 6))
def test_dealing_keeps_every_token(shape: StepShape, number: int) -> None:
    """Micro-batches have all decodes, all tokens of chunks, and differ by one token at most."""
    parts = deal(shape, number)
    sizes = [part.num_tokens for part in parts]
    assert len(parts) == number
    assert sum(sizes) == shape.num_tokens
    assert max(sizes) - min(sizes) <= 1
    assert sum(part.num_decodes for part in parts) == shape.num_decodes


def test_ping_pong_hides_the_shorter_side() -> None:
    """Many equal micro-batches take what the busier side takes, and the filling of the pipeline."""
    plan = AttentionFfn([Attention()], 1, Ffn(token_ns=500.0), micro_batches=4)
    (time,) = plan.stage_times_ns([StepShape(400, 0)])
    once = 400 * 10_000
    assert time.busy_ns == once + 400_000 + 400 * 500 // 10 // 4
    use = plan.use_of([StepShape(400, 0)])
    assert plan.bound_by(StepShape(400, 0)).startswith("the attention devices, busy 10")
    assert use.ffn_ns == 200_000
    slow = AttentionFfn([Attention()], 1, Ffn(sent_ns=1e6), micro_batches=2)
    assert "the link between them, busy" in slow.bound_by(StepShape(400, 0))


def test_a_fixed_cost_keeps_batches_whole() -> None:
    """Where reading the weights is all, as many micro-batches as there are cost as often."""
    assert AttentionFfn([Attention()], 1, Ffn(fixed_ns=1e9, token_ns=0.0)).use_of([StepShape(8, 0)]).micro_batches == 1
    assert AttentionFfn([Attention()], 1, Ffn(delay_ns=1e3)).use_of([StepShape(400, 0)]).micro_batches > 1


def test_the_link_carries_each_token_to_each_device_of_its_experts() -> None:
    """One token's hidden state goes to at most ``top_k`` devices, there in the experts' format, back in 16 bits."""
    model = RooflineStepModel(
        QWEN, H100, collectives=Ring(NO_LINK), ranks=ffn_ranks(QWEN, 128), all2all_backend="deepep_high_throughput"
    )
    one = FfnSide(model, Link(1e9, 7.0)).parts_ns((1,), 0)
    layers, hidden = QWEN.num_hidden_layers, QWEN.hidden_size
    assert one.combine_ns == pytest.approx(layers * 8 * hidden * 2)
    assert one.dispatch_ns == pytest.approx(layers * 8 * (hidden * 2 + 8 * 8))
    halves = FfnSide(model, Link(1e9, 7.0), senders_per_rank=2).parts_ns((2,), 0)
    assert halves.combine_ns == pytest.approx(one.combine_ns)
    dense = RooflineStepModel(LLAMA, H100, ranks=ffn_ranks(LLAMA, 1))
    sent = FfnSide(dense, Link(1e9, 7.0)).parts_ns((3, 5), 0)
    assert sent.dispatch_ns == sent.combine_ns == pytest.approx(32 * 8 * 4096 * 2)


@pytest.mark.parametrize("model", [LLAMA, QWEN, DEEPSEEK], ids=lambda model: model.name)
def test_the_two_parts_are_the_model(model: object) -> None:
    """Operators, weights and KV of both parts add up to those of the whole; FFN devices have no KV."""
    ffn = Parallelism(part="ffn")
    names = sorted(op.name for ranks in (ATTENTION, ffn) for op in operators(model, ranks))  # type: ignore[arg-type]
    assert names == sorted(op.name for op in operators(model))  # type: ignore[arg-type]
    weights = model.weight_bytes  # type: ignore[attr-defined]
    assert weights(ranks=ATTENTION) + weights(ranks=ffn) == weights()
    kv = model.kv_bytes_per_token  # type: ignore[attr-defined]
    assert (kv(ranks=ATTENTION), kv(ranks=ffn)) == (kv(), 0)


def test_tensor_parallel_attention_divides_the_tokens_it_sends() -> None:
    """Each rank routes its part of the tokens, and they gather what comes back."""
    for model in (LLAMA, QWEN):
        found = {op.name: op for op in operators(model, replace(ATTENTION, tensor=4))}
        assert "mlp_all_gather" in found
        assert "mlp_all_reduce" not in found
    assert found["router"].applies_to == "chunk_tokens"


def test_ffn_devices_must_hold_their_weights() -> None:
    """An error has the figures and the number of devices that would do; that number does."""
    memory = FfnMemory(DEEPSEEK, H100, ffn_ranks(DEEPSEEK, 4), tokens=2048)
    with pytest.raises(InputError, match=r"do not fit on 4 x H100.*weights \d+.*it fits from count (\d+) on") as caught:
        memory.check()
    count = int(str(caught.value).rpartition("count ")[2].split()[0])
    assert replace(memory, parallelism=ffn_ranks(DEEPSEEK, count)).fits
    assert not replace(memory, parallelism=ffn_ranks(DEEPSEEK, count - 1)).fits
    assert sum(memory.breakdown.values()) == H100.memory_bytes


def test_what_cannot_be() -> None:
    """Stages, and numbers of micro-batches out of bounds, are refused; the plan has a name."""
    assert "attention_ffn" in execution_plans.names()
    with pytest.raises(InputError, match="no pipeline stages: 1 is needed, got 2"):
        AttentionFfn([Attention(), Attention()], 1, Ffn())
    with pytest.raises(InputError, match="must be from 1 to 16, got 0"):
        AttentionFfn([Attention()], 1, Ffn(), micro_batches=0)
