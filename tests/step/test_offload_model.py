"""Step models with weights elsewhere: bounds, runs, tensor parallelism, stages, experts on demand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware.catalogue import load_device
from servetwin.llm.catalogue import load_model
from servetwin.llm.parallel import Parallelism
from servetwin.memory.devices import MemoryDevice
from servetwin.memory.placement import ExpertCache, KvElsewhere, PlacedWeights, Placement
from servetwin.network import Link, Ring
from servetwin.step.base import StepShape, grown_by
from servetwin.step.experts.placements import linear
from servetwin.step.experts.popular import zipf
from servetwin.step.fixed import FixedLatency
from servetwin.step.offload.model import PART, OffloadedRankModel, OffloadedStepModel, offloaded
from servetwin.step.plans.lockstep import Lockstep
from servetwin.step.plans.pipeline import Pipeline
from servetwin.step.roofline import RooflineStepModel

LLAMA, MOE = load_model("meta-llama/Llama-3.1-8B"), load_model("Qwen/Qwen3-30B-A3B")
H100 = load_device("H100-SXM")


def devices(gb_per_s: float = 50.0, sharers: int = 1) -> dict[str, MemoryDevice]:
    """Return two memory devices of that bandwidth."""
    return {name: MemoryDevice(name, 10**13, gb_per_s * 1e9, 1000, sharers) for name in ("host", "cxl")}


BASE, MOE_BASE = RooflineStepModel(LLAMA, H100), RooflineStepModel(MOE, H100)


def llama(rules: Placement, gb_per_s: float = 50.0) -> OffloadedStepModel:
    """Return Llama 8B on an H100 with such a placement."""
    return offloaded(BASE, PlacedWeights(LLAMA, Parallelism(), rules, devices(gb_per_s)))


def moe(rules: Placement, gb_per_s: float = 50.0) -> OffloadedStepModel:
    """Return a mixture of experts on an H100 with such a placement."""
    return offloaded(MOE_BASE, PlacedWeights(MOE, Parallelism(), rules, devices(gb_per_s)))


def layers(count: int, device: str = "host") -> dict[int, str]:
    """Return the last layers of ``count`` equal groups on a device."""
    return {32 * (i + 1) // count - 1: device for i in range(count)}


shapes = st.builds(
    lambda n, each, chunks: StepShape(n, n * each, tuple(chunks) or (() if n else ((5, 0),)), each, each),
    st.integers(0, 64),
    st.integers(1, 4000),
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 2000)), max_size=2),
)
placements = st.builds(
    Placement,
    st.integers(1, 32).map(layers),
    st.sampled_from([{}, {"lm_head": "cxl"}, {"embedding": "cxl"}, {"qkv_proj": "accelerator"}]),
    prefetch=st.integers(0, 4),
    access=st.just("copy"),
    at_start=st.booleans(),
) | st.builds(Placement, st.integers(1, 32).map(layers), access=st.just("direct"))


@given(shapes, placements, st.sampled_from([10.0, 500.0, 3000.0]))
@settings(max_examples=60)
def test_bounds(shape: StepShape, rules: Placement, gb_per_s: float) -> None:
    """Never faster than with all weights at hand, nor than the bytes over the bandwidth; never slower than in turn."""
    model = llama(rules, gb_per_s)
    step, alone = model.duration_ns(shape), BASE.duration_ns(shape)
    moved = model.loaded_bytes(shape)
    busiest = max(moved.values()) / gb_per_s
    embedding = model.placed.ends.get("embedding", ("", 0))[1]
    in_turn = alone + (sum(moved.values()) + embedding) / gb_per_s + 1000 * 8 * 33
    assert max(alone, busiest) - 1 <= step <= in_turn + 1
    parts = model.breakdown_ns(shape)
    assert sum(parts.values()) == pytest.approx(step, abs=1)
    assert parts[PART] >= 0


@given(st.integers(1, 64), st.integers(1, 4000), placements, st.integers(1, 60), st.integers(1, 10**10))
@settings(max_examples=60)
def test_runs_are_equal_to_steps(n: int, each: int, rules: Placement, most: int, limit_ns: int) -> None:
    """To the nanosecond, and they end where a run has to."""
    model, shape = llama(rules), StepShape(n, n * each, (), each, each)
    run = list(model.decode_run_ns(shape, most, limit_ns))
    assert run == [llama(rules).duration_ns(grown_by(shape, i)) for i in range(len(run))]
    assert len(run) == most or sum(run) >= limit_ns
    assert sum(run[:-1]) < limit_ns


def test_keys_and_values_elsewhere_are_read_in_each_step() -> None:
    """Over a slow link a step takes their bytes over its bandwidth, growing with the context; runs agree."""
    model, shape = llama(Placement(kv=KvElsewhere("host", 0.5))), StepShape(64, 64 * 4000, (), 4000, 4000)
    moved = 0.5 * 64 * 4001 * 131_072
    assert model.loaded_bytes(shape) == {"host": pytest.approx(moved)}
    assert model.duration_ns(shape) == pytest.approx(moved / 50 + 32 * 1000, rel=1e-3)
    run = model.decode_run_ns(shape, 5, 10**15)
    assert list(run) == [model.duration_ns(grown_by(shape, i)) for i in range(5)]
    assert run[4] > run[0]


def test_one_layer_in_four_hides_behind_the_others() -> None:
    """Over a fast link nothing is waited for; over a slow one the step takes as long as the link."""
    shape = StepShape(64, 64 * 1000, (), 1000, 1000)
    rules = Placement(layers(8))
    assert llama(rules, 2000.0).duration_ns(shape) == pytest.approx(BASE.duration_ns(shape), rel=1e-6)
    layer_bytes = sum(size for _, size in llama(rules).placed.layers[31].values())
    assert llama(rules).duration_ns(shape) == pytest.approx(8 * (layer_bytes / 50 + 1000), rel=1e-6)


def test_direct_reads_take_the_place_of_the_memorys() -> None:
    """A kernel over the link takes as long as its weights; it does not read them from its own memory again."""
    shape = StepShape(1, 100, (), 100, 100)
    rules = Placement(layers(32))
    direct, late = llama(replace(rules, access="direct")), llama(replace(rules, prefetch=0))
    layer_bytes = sum(size for layer in direct.placed.layers for _, size in layer.values())
    assert layer_bytes / 50 < direct.duration_ns(shape) < late.duration_ns(shape)
    products = sum(BASE.breakdown_ns(shape)[name] for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"))
    assert late.duration_ns(shape) - direct.duration_ns(shape) == pytest.approx(products, rel=0.1)


def test_ranks_share_a_device() -> None:
    """Two ranks load half a layer each, at half the bandwidth: as long as one rank with a whole layer."""
    shape = StepShape(4, 400, (), 100, 100)
    ring = Ring(Link(450e9, 1000))
    base = RooflineStepModel(LLAMA, H100, tensor_parallel_size=2, collectives=ring)
    two = offloaded(base, PlacedWeights(LLAMA, Parallelism(2), Placement(layers(32)), devices(50, 2)))
    one = llama(Placement(layers(32)))
    assert two.duration_ns(shape) == pytest.approx(one.duration_ns(shape), rel=2e-3)


def test_stages_load_their_own_layers() -> None:
    """In a pipeline each stage waits for its part; one that has nothing elsewhere takes what it took."""
    shape = StepShape(4, 400, (), 100, 100)
    ring = Ring(Link(50e9, 1000))

    def stage(number: int, away: bool) -> OffloadedStepModel | RooflineStepModel:
        ranks = Parallelism(pipeline=2, stage=number)
        base = RooflineStepModel(LLAMA, H100, collectives=ring, ranks=ranks)
        rules = Placement(dict.fromkeys(range(16, 32), "host"))
        return offloaded(base, PlacedWeights(LLAMA, ranks, rules, devices())) if away else base

    plain = Pipeline([stage(0, False), stage(1, False)]).stage_times_ns([shape])  # type: ignore[list-item]
    first, second = Pipeline([stage(0, True), stage(1, True)]).stage_times_ns([shape])  # type: ignore[list-item]
    assert first.busy_ns == pytest.approx(plain[0].busy_ns, abs=1)
    layer = sum(size for _, size in llama(Placement(layers(32))).placed.layers[0].values())
    assert second.busy_ns == pytest.approx(16 * (layer / 50 + 1000), rel=0.01)
    assert second.send_ns == plain[1].send_ns


def test_loads_at_the_start_are_those_of_all_stages() -> None:
    """A later stage waits for nothing: its loads were issued with the first one's."""
    shape, ranks = StepShape(4, 400, (), 100, 100), Parallelism(pipeline=2, stage=1)
    base = RooflineStepModel(LLAMA, H100, collectives=Ring(Link(50e9, 1000)), ranks=ranks)
    rules = Placement(layers(32), at_start=True)
    assert offloaded(base, PlacedWeights(LLAMA, ranks, rules, devices())).duration_ns(shape) == base.duration_ns(shape)
    first = replace(ranks, stage=0)
    base = RooflineStepModel(LLAMA, H100, collectives=Ring(Link(50e9, 1000)), ranks=first)
    loaded = offloaded(base, PlacedWeights(LLAMA, first, rules, devices(50, 2)))
    whole = sum(size for layer in llama(rules).placed.layers for _, size in layer.values())
    assert loaded.duration_ns(shape) == pytest.approx(whole / 50, rel=0.02)


def test_experts_on_demand_are_waited_for() -> None:
    """Those that a step activates and that are not cached, after all else."""
    shape = StepShape(1, 100, (), 100, 100)
    model = moe(Placement(experts=ExpertCache("host", 0)))
    bytes_ = 48 * 8 * model.placed.expert_bytes
    assert model.loaded_bytes(shape) == {"host": pytest.approx(bytes_)}
    waited = model.duration_ns(shape) - MOE_BASE.duration_ns(shape)
    assert waited == pytest.approx(bytes_ / 50 + 48 * 1000, rel=1e-3)
    half = moe(Placement(experts=ExpertCache("host", 64)))
    assert half.duration_ns(shape) - MOE_BASE.duration_ns(shape) == pytest.approx(waited / 2, rel=0.01)
    assert moe(Placement(experts=ExpertCache("host", 128))).duration_ns(shape) == MOE_BASE.duration_ns(shape)
    assert "64 per layer cached: expected hit rate 50% at 1 tokens" in half.notices[-1]


def test_popular_experts_are_found_more_often() -> None:
    """Under Zipf's law, as a routing says; LFU more often than LRU."""
    routing = zipf(128, 8, 48, linear(128, 1), seed=0)
    shares = {}
    for eviction in ("lru", "lfu"):
        rules = Placement(experts=ExpertCache("host", 32, eviction))  # type: ignore[arg-type]
        model = offloaded(MOE_BASE, PlacedWeights(MOE, Parallelism(), rules, devices()), routing)
        assert model.experts is not None
        shares[eviction] = model.experts.hit_share(1)
    assert 0.25 < shares["lru"] < shares["lfu"]


def test_layers_and_experts_share_their_device() -> None:
    """A step takes no less than the bytes of both over its bandwidth."""
    rules = Placement(layers(8), experts=ExpertCache("host", 0))
    shape = StepShape(16, 1600, (), 100, 100)
    model = moe(rules)
    assert model.duration_ns(shape) >= model.loaded_bytes(shape)["host"] / 50


def test_ranks_in_lockstep_wait_for_experts_once() -> None:
    """A rank model's parts add up to the step of a replica whose ranks have the same batch."""
    ranks = Parallelism(data=2, expert=2)
    ring = Ring(Link(450e9, 1000))
    base = RooflineStepModel(MOE, H100, data_parallel_size=2, collectives=ring, ranks=ranks)
    rules = Placement({0: "host", 20: "host"}, experts=ExpertCache("cxl", 10))
    model = offloaded(base, PlacedWeights(MOE, ranks, rules, devices()))
    assert isinstance(model, OffloadedRankModel)
    shape = StepShape(8, 800, (), 100, 100)
    (stage,) = Lockstep([model], 2).stage_times_ns([shape, shape])
    assert stage.busy_ns == pytest.approx(model.duration_ns(shape), rel=0.01)
    assert stage.busy_ns > Lockstep([base], 2).stage_times_ns([shape, shape])[0].busy_ns


def test_what_limits_a_step_is_said() -> None:
    """Loads where they are waited for most of the time, else what limits the base."""
    shape = StepShape(1, 100, (), 100, 100)
    assert llama(Placement(layers(32))).bound_by(shape) == "loading weights"
    assert llama(Placement(layers(1)), 3000.0).bound_by(shape) == BASE.bound_by(shape)


def test_a_step_model_without_parts_is_refused() -> None:
    """One time for all says nothing of where layers begin."""
    with pytest.raises(InputError, match="tells its parts"):
        offloaded(FixedLatency(1000), PlacedWeights(LLAMA, Parallelism(), Placement(layers(1)), devices()))


def test_many_decode_steps_are_cheap() -> None:
    """A thousand steps of a run ask the makespan a few times only."""
    model = llama(Placement(layers(8)), 400.0)
    assert len(model.decode_run_ns(StepShape(8, 8000, (), 1000, 1000), 1000, 10**15)) == 1000
    ((_, _, lines),) = model._schedule._known.values()  # type: ignore[attr-defined]
    assert len(lines._points) < 20
    assert np.isfinite(lines.at(1.0))
