"""The roofline: never faster than the hardware's peak, closed forms, monotone, near a measured profile."""

from __future__ import annotations

import csv
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware import device_names, list_devices, load_device
from servetwin.llm import ModelArchitecture, load_model, model_names
from servetwin.llm.formats import WeightFormat
from servetwin.network import Link, Ring
from servetwin.step.base import StepModelBase, StepShape
from servetwin.step.efficiency import Efficiency, family_efficiency, family_names
from servetwin.step.host import NO_HOST_OVERHEAD, HostOverhead
from servetwin.step.kernels import causal_pairs
from servetwin.step.roofline import RooflineStepModel
from servetwin.testing.step_models import StepModelConformance, step_shapes

LLAMA_8B = load_model("meta-llama/Llama-3.1-8B")
H100 = load_device("H100-SXM")
A100 = load_device("A100-SXM-80GB")
RING = Ring(Link(50e9, 5_000))
PERFECT = Efficiency(**{item.name: 0.0 if item.metadata["unit"] == "us" else 1.0 for item in fields(Efficiency)})
TILED = 1.12
"""A product of whole tiles in whole waves keeps a perfect device busy for so much longer at most, at large sizes."""


class TestConformance(StepModelConformance):
    """The roofline keeps the contract of step models."""

    model = RooflineStepModel(LLAMA_8B, H100)

    def make(self) -> RooflineStepModel:
        """Return one model, so that its memory of earlier shapes is tested too."""
        return self.model


class TestConformanceOfTensorParallelism(TestConformance):
    """So it does with collectives, norms of queries and keys, and KV in fp8."""

    model = RooflineStepModel(load_model("Qwen/Qwen3-8B"), load_device("L4"), 4, RING, kv_cache_dtype="fp8")


def weight_formats(architecture: ModelArchitecture) -> set[WeightFormat]:
    """Return the formats of a model's matrices."""
    return {architecture.weight_format(tensor.linear) for tensor in architecture.tensors()}


@st.composite
def roofline_models(draw: st.DrawFn) -> RooflineStepModel:
    """Draw a model on a device with any degree, formats, host and efficiencies."""
    architecture = load_model(draw(st.sampled_from(model_names())))
    device = load_device(draw(st.sampled_from(device_names())))
    dtype = draw(st.sampled_from([name for name in ("bf16", "fp16") if name in device.peak_flops]))
    efficiency = draw(st.sampled_from([None, Efficiency(), PERFECT, Efficiency(matrix_compute=0.3, matrix_us=0.0)]))
    ranks = draw(st.sampled_from(architecture.tensor_parallel_sizes()[:4]))
    kv = draw(st.sampled_from([None, "fp8"]))
    host = draw(st.sampled_from([NO_HOST_OVERHEAD, HostOverhead(100.0, 1.5, 0.2)]))
    formats = {layer_format.activations for layer_format in weight_formats(architecture)} - {None}
    if not all(name in device.peak_flops or (name == "nvfp4" and "fp4" in device.peak_flops) for name in formats):
        reject()
    return RooflineStepModel(architecture, device, ranks, RING, dtype, kv, host, efficiency, draw(st.booleans()))


@given(model=roofline_models(), shape=step_shapes())
@settings(max_examples=150)
def test_nothing_is_faster_than_the_hardware(model: RooflineStepModel, shape: StepShape) -> None:
    """No operator, and no step, is faster than max(FLOPs / peak, bytes / bandwidth) of the data sheet."""
    device = model.device
    peak = max(device.peak_flops.values())
    parts = model.breakdown_ns(shape)
    least = 0.0
    for name, (flops, num_bytes) in model.work(shape).items():
        bound = 1e9 * max(flops / peak, num_bytes / device.memory_bandwidth_bytes_per_s)
        assert parts[name] >= bound * (1 - 1e-12)
        least += bound
    assert model.duration_ns(shape) >= least * (1 - 1e-12) - 1


@given(model=roofline_models(), shape=step_shapes())
def test_work_agrees_with_the_architecture(model: RooflineStepModel, shape: StepShape) -> None:
    """Products of a dense model cost two FLOPs per weight and token (LM head: per sequence); weights are read once."""
    architecture, ranks = model.architecture, model.tensor_parallel_size
    if architecture.features:
        reject()
    work = model.work(shape)
    head = architecture.padded_vocab_per_rank(ranks) * architecture.hidden_size
    small = 300 * architecture.num_hidden_layers * architecture.hidden_size  # norms and biases
    matrices = architecture.weight_elements(ranks) - head * (1 if architecture.tie_word_embeddings else 2)
    products = sum(part.flops for name, part in work.items() if not name.startswith("attention"))
    expected = 2 * (matrices * shape.num_tokens + head * shape.num_sequences)
    assert expected - 2 * small * shape.num_tokens <= products <= expected
    assert sum(part.num_bytes for part in work.values()) >= 2 * (matrices + head)


def test_a_lone_decode_reads_the_weights_once() -> None:
    """At batch 1 a perfect machine takes weights / bandwidth, and a little for KV and activations."""
    model = RooflineStepModel(LLAMA_8B, H100, host=NO_HOST_OVERHEAD, efficiency=PERFECT)
    embedding = 128_256 * 4096 * 2
    weights_ns = 1e9 * (LLAMA_8B.weight_bytes() - embedding) / H100.memory_bandwidth_bytes_per_s
    assert weights_ns < model.duration_ns(StepShape(1, 10)) < 1.01 * weights_ns


def test_a_long_prompt_is_bound_by_products() -> None:
    """8,192 tokens on a perfect machine take FLOPs / peak: 2 per weight and token, and causal attention."""
    model = RooflineStepModel(LLAMA_8B, H100, host=NO_HOST_OVERHEAD, efficiency=PERFECT)
    tokens, layers = 8192, LLAMA_8B.num_hidden_layers
    matrices = LLAMA_8B.num_parameters - 2 * 128_256 * 4096
    attention = 4 * layers * 32 * 128 * tokens * (tokens + 1) / 2
    compute_ns = 1e9 * (2 * matrices * tokens + attention) / H100.peak("bf16")
    parts = model.breakdown_ns(StepShape(0, 0, ((tokens, 0),)))
    products = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "attention_prefill")
    assert compute_ns <= sum(parts[name] for name in products) <= TILED * compute_ns


def test_chunks_of_a_prompt_cost_its_causal_pairs() -> None:
    """The attention of a prompt's chunks adds up to that of the whole prompt, and a little for reading KV again."""
    model = RooflineStepModel(LLAMA_8B, H100)

    def attention_ns(*chunks: tuple[int, int]) -> float:
        return model.breakdown_ns(StepShape(0, 0, chunks))["attention_prefill"]

    whole = attention_ns((8192, 0))
    assert attention_ns((4096, 0), (4096, 4096)) == pytest.approx(whole, rel=0.02)
    assert attention_ns((4096, 0)) + attention_ns((4096, 4096)) == pytest.approx(whole, rel=0.02)


def test_two_ranks_exchange_hidden_states_and_logits() -> None:
    """Each layer has two all-reduces, the embedding one, and the logits are gathered: half an all-reduce."""
    model = RooflineStepModel(LLAMA_8B, H100, 2, RING)
    parts = model.breakdown_ns(StepShape(16, 1600))
    share = model.efficiency.collective_bandwidth
    assert parts["all_reduce"] == pytest.approx(65 * RING.all_reduce_ns(16 * 4096 * 2 / share, 2))
    assert parts["logits_gather"] == pytest.approx(RING.all_reduce_ns(16 * 128_256 * 2 / share, 2) / 2)
    assert parts["qkv_proj"] < RooflineStepModel(LLAMA_8B, H100).breakdown_ns(StepShape(16, 1600))["qkv_proj"]


@given(model=roofline_models(), shape=step_shapes(), more=st.integers(1, 500))
def test_more_work_is_never_faster(model: RooflineStepModel, shape: StepShape, more: int) -> None:
    """More context, one more decode, or a longer chunk never shorten a step."""
    base = model.duration_ns(shape)
    n, kv, prefills = shape.num_decodes, shape.decode_kv_tokens, shape.prefills
    assert model.duration_ns(StepShape(n, kv + more, prefills)) >= base
    assert model.duration_ns(StepShape(n + 1, kv, prefills)) >= base
    longer = tuple((new + more, context) for new, context in prefills)
    assert model.duration_ns(StepShape(n, kv, longer)) >= base
    deeper = tuple((new, context + more) for new, context in prefills)
    assert model.duration_ns(StepShape(n, kv, deeper)) >= base


@given(model=roofline_models(), shape=step_shapes())
def test_what_bounds_the_step_adds_up(model: RooflineStepModel, shape: StepShape) -> None:
    """The limits' shares add up to the step's time, and the one that is named is the greatest."""
    bounds = model.bounds_ns(shape)
    assert sum(bounds.values()) == pytest.approx(sum(model.breakdown_ns(shape).values()))
    assert bounds[model.bound_by(shape)] == max(bounds.values())


@pytest.mark.parametrize(
    ("shape", "limit"),
    [
        (StepShape(1, 100), "weights' bandwidth"),
        (StepShape(256, 256 * 4000), "KV bandwidth"),
        (StepShape(0, 0, ((2048, 0),)), "compute"),
    ],
)
def test_the_limit_is_the_textbook_one(shape: StepShape, limit: str) -> None:
    """A lone decode reads weights, many long ones read KV, a prompt computes."""
    assert RooflineStepModel(LLAMA_8B, H100).bound_by(shape) == limit


def test_host_and_network_can_be_the_limit() -> None:
    """A slow host or a slow link is named."""
    host = HostOverhead(per_step_us=10**6)
    assert RooflineStepModel(LLAMA_8B, H100, host=host).bound_by(StepShape(1, 10)) == "host"
    slow = Ring(Link(1e9, 10**6))
    assert RooflineStepModel(LLAMA_8B, H100, 2, slow).bound_by(StepShape(1, 10)) == "network"


def test_host_overhead_counts_steps_and_requests() -> None:
    """The host's part is per step and per request, unfinished prefills included."""
    parts = RooflineStepModel(LLAMA_8B, H100, host=HostOverhead(100, 7)).breakdown_ns(StepShape(3, 9, ((5, 0),)))
    assert parts["host"] == 1000 * (100 + 4 * 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel_size": 3}, "tensor_parallel_size 3 does not divide"),
        ({"tensor_parallel_size": 2}, "needs a link"),
        ({"device": A100, "architecture": LLAMA_8B.with_quantization("fp8")}, "no peak for fp8.*weight-only"),
        ({"device": load_device("TPU-v6e"), "dtype": "float16"}, "TPU-v6e has no peak for fp16"),
    ],
)
def test_what_cannot_be_modelled_is_refused(options: dict[str, object], message: str) -> None:
    """Ranks that do not divide, a missing link, quantised weights and missing formats are errors."""
    with pytest.raises(InputError, match=message):
        RooflineStepModel(**{"architecture": LLAMA_8B, "device": H100, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"matrix_compute": 1.2}, {"matrix_bandwidth": 0.0}, {"matrix_us": -1.0}, {"decode_us": "1"}]
)
def test_efficiencies_are_physical(options: dict[str, float]) -> None:
    """No share above 1 (faster than the peak) or of 0, and no negative cost."""
    with pytest.raises(InputError, match=f"efficiency {next(iter(options))} must be from"):
        Efficiency(**options)


def test_a_scenario_changes_some_efficiencies() -> None:
    """A mapping changes the efficiencies that it names; others stay the family's; unknown ones are refused."""
    model = RooflineStepModel(LLAMA_8B, H100, efficiency={"matrix_compute": 0.6})
    assert model.efficiency == family_efficiency("hopper").changed({"matrix_compute": 0.6})
    with pytest.raises(InputError, match="unknown efficiency 'matrix'; did you mean 'matrix_us'"):
        RooflineStepModel(LLAMA_8B, H100, efficiency={"matrix": 0.6})


def test_every_family_has_all_coefficients() -> None:
    """Each file is complete and within bounds, and is a family of the catalogue."""
    known = {device.family for device in list_devices()}
    assert set(family_names()) <= known
    for name in [*family_names(), None, "unheard of"]:
        assert isinstance(family_efficiency(name), Efficiency)
    assert family_efficiency("hopper") != family_efficiency(None)


def test_a_window_bounds_what_a_decode_reads() -> None:
    """Layers with a window cost the same for every context beyond it; full layers grow on."""
    model = RooflineStepModel(load_model("google/gemma-3-12b-it"), H100)
    window = 1024
    beyond = [model.work(StepShape(4, 4 * tokens))["attention_decode"].num_bytes for tokens in (window, 2 * window)]
    full = RooflineStepModel(LLAMA_8B, H100)
    grown = [full.work(StepShape(4, 4 * tokens))["attention_decode"].num_bytes for tokens in (window, 2 * window)]
    assert beyond[1] / beyond[0] < 1.4
    assert grown[1] / grown[0] > 1.9


@given(new=st.integers(1, 60), context=st.integers(0, 60), window=st.integers(0, 80))
def test_pairs_are_counted_one_by_one(new: int, context: int, window: int) -> None:
    """The closed form of causal pairs equals the count over tokens, with and without a window."""
    seen = [context + i + 1 for i in range(new)]
    assert causal_pairs(new, context, window) == sum(min(n, window) if window else n for n in seen)


def test_experts_are_read_as_they_are_hit() -> None:
    """One token reads its two experts of Mixtral's eight, many tokens read all, and no more than that."""
    model = RooflineStepModel(load_model("mistralai/Mixtral-8x7B-v0.1"), load_device("H200-SXM"))
    name = "experts.down_proj"
    one, many, more = (model.work(StepShape(n, n))[name].num_bytes for n in (1, 100, 101))
    weights = 32 * 4096 * 14336 * 2
    assert one == pytest.approx(2 * weights, rel=0.01)
    assert many == pytest.approx(8 * weights, rel=0.02)
    assert more - many < 0.01 * weights


def test_graphs_pad_the_batch() -> None:
    """Products run on the next recorded batch size; without graphs they do not, and launches bound a small step."""
    graphs, eager = (RooflineStepModel(LLAMA_8B, H100, enforce_eager=eager) for eager in (False, True))
    assert graphs.breakdown_ns(StepShape(9, 9))["qkv_proj"] == graphs.breakdown_ns(StepShape(16, 16))["qkv_proj"]
    assert eager.breakdown_ns(StepShape(9, 9))["act_fn"] < eager.breakdown_ns(StepShape(16, 16))["act_fn"]
    small = load_model("meta-llama/Llama-3.2-1B")
    slow = RooflineStepModel(small, load_device("H200-SXM"), enforce_eager=True)
    assert slow.breakdown_ns(StepShape(1, 1))["launches"] >= 0
    assert slow.duration_ns(StepShape(1, 1)) >= RooflineStepModel(small, load_device("H200-SXM")).duration_ns(
        StepShape(1, 1)
    )


def test_a_thousand_shapes_take_less_than_20_ms() -> None:
    """Once warm; decode steps and steps with a chunk."""
    model = RooflineStepModel(LLAMA_8B, H100)
    shapes = [StepShape(1 + i % 200, 1000 + 97 * i, ((1 + 3 * i % 1500, i),) if i % 2 else ()) for i in range(1000)]
    times = []
    for _ in range(4):
        start = time.perf_counter()
        for shape in shapes:
            model.duration_ns(shape)
        times.append(time.perf_counter() - start)
    assert min(times[1:]) < 0.02


@pytest.mark.measured
def test_near_the_profile_of_an_rtx_pro_6000(reference: Path) -> None:
    """Matrix products are within 10 % of LLMServingSim's profile in the median, 25 % for nine in ten, 45 % at worst."""
    folder = reference / "llmservingsim/profiles-v1/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16/tp1"
    model = RooflineStepModel(LLAMA_8B, load_device("RTXPRO6000"))
    errors = []
    with (folder / "dense.csv").open() as file:
        for row in csv.DictReader(file):
            if row["layer"] not in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"):
                continue
            ours = model.breakdown_ns(StepShape(0, 0, ((int(row["tokens"]), 0),)))[row["layer"]] / 32_000
            errors.append(abs(ours / float(row["time_us"]) - 1))
    errors.sort()
    assert errors[len(errors) // 2] < 0.10
    assert errors[9 * len(errors) // 10] < 0.25
    assert errors[-1] < 0.45


def test_stepping_is_the_base_classs_loop() -> None:
    """The conformance suite compares with the plain loop, not with the model's own run."""
    assert RooflineStepModel.decode_run_ns is not StepModelBase.decode_run_ns
