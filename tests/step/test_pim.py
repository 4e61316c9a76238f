"""Attention in memory: never faster than its banks, KV that grows, interleaving that never loses, mapping, capacity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.hardware.pim import load_pim_device, pim_device_names
from servetwin.llm import load_model
from servetwin.llm.operators import AttentionKernel, operators
from servetwin.llm.parallel import Parallelism
from servetwin.step.affine import AffineStepModel
from servetwin.step.base import StepModel, StepShape
from servetwin.step.pim import ClosedFormAttention, Decodes, LssPimAttention, PimStepModel, TableAttention
from servetwin.step.pim.factory import pim_step_model
from servetwin.step.pim.interleave import Half, halves, lss_halves, makespan_ns
from servetwin.step.pim.placement import operator_class, read_mapping
from servetwin.step.roofline import RooflineStepModel
from servetwin.step.work_columns import StepColumns
from servetwin.testing.step_models import StepModelConformance, decode_shapes, step_shapes

LLAMA_8B = load_model("meta-llama/Llama-3.1-8B")
L40S = load_device("L40S")
ROOFLINE = RooflineStepModel(LLAMA_8B, L40S)
ON_PIM = {"attention_decode": "pim", "attention_prefill": "accelerator", "gemm": "accelerator"}


def make(base: StepModel = ROOFLINE, kv_bytes: int = 2**30, model: str | None = None, **options: Any) -> PimStepModel:
    """Return a step model of an L40S beside 32 AiM chips, or as ``options`` say."""
    options = {"pim": {"device": "GDDR6-AiM", "count": 32}, "mapping": ON_PIM, **options}
    architecture = load_model(model) if model else LLAMA_8B
    return pim_step_model(base, architecture, Path(), lambda: kv_bytes, lambda: L40S, **options)


class TestConformance(StepModelConformance):
    """The model keeps the contract of step models, interleaving where that is faster."""

    model = make()

    def make(self) -> PimStepModel:
        """Return one model, so that its memory of earlier shapes is tested too."""
        return self.model


class TestConformanceWithEverythingElsewhere(TestConformance):
    """So it does with products in memory and prompts on the host."""

    model = make(
        mapping={"attention_decode": "pim", "gemm": "pim", "norms": "host", "attention_prefill": "host"},
        host_device="Xeon-8480",
        pim={"device": "CXL-PNM", "count": 1},
    )


class TestConformanceOfLss(TestConformance):
    """So it does with LLMServingSim's halves; prompts are not in the shapes, so nothing attends."""

    model = PimStepModel(
        ROOFLINE,
        LssPimAttention("DDR4_8GB_3200_pim", 64, 1638.4, 13.86, num_heads=32, num_kv_heads=8, head_dim=128,
                        num_layers=32, kv_grows=True),
        {"attention_decode": "pim", "attention_prefill": "accelerator", "gemm": "accelerator", "experts": "accelerator",
         "norms": "accelerator", "elementwise": "accelerator"},
        num_layers=32, interleaving="auto", overlap=False, decodes_again=True,
    )  # fmt: skip


@settings(max_examples=200)
@given(
    name=st.sampled_from(pim_device_names()),
    model=st.sampled_from(["meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B", "deepseek-ai/DeepSeek-V3"]),
    ranks=st.sampled_from([1, 2, 4]),
    count=st.integers(2, 64),
    shape=decode_shapes(max_decodes=512, max_context=65_536),
)
def test_attention_is_never_faster_than_the_banks(
    name: str, model: str, ranks: int, count: int, shape: StepShape
) -> None:
    """No step moves keys and values faster than the internal bandwidth, nor computes faster than the multipliers."""
    device, ops = load_pim_device(name), operators(load_model(model), Parallelism(ranks))
    attention = ClosedFormAttention(device, count, ops, ranks)
    decodes = Decodes(shape.num_decodes, shape.decode_kv_tokens, shape.decode_kv_max)
    time_s = attention.step_ns(decodes) * 1e-9
    assert attention.internal_bytes_per_s <= device.internal_bytes_per_s * count / ranks
    assert attention.kv_bytes(decodes) <= attention.internal_bytes_per_s * time_s * (1 + 1e-9)
    kernels = [op for op in ops if isinstance(op, AttentionKernel) and op.phase != "prefill"]
    flops = sum(op.count * op.flops_per_pair * (decodes.kv_tokens + decodes.num) for op in kernels)
    assert flops <= device.flops_per_channel * (device.channels * count // ranks) * time_s * (1 + 1e-9)
    floor_j = attention.kv_bytes(decodes) * ranks * device.access_j_per_byte
    assert attention.steps_j(StepColumns.of_shapes([shape]))[0] >= floor_j * (1 - 1e-9)


@given(shape=decode_shapes(), more=st.integers(1, 1000))
def test_kv_grows_with_generated_tokens(shape: StepShape, more: int) -> None:
    """Longer contexts take longer; LLMServingSim's attention sees the prompt only, unless told otherwise."""
    ops = operators(LLAMA_8B)
    attention = ClosedFormAttention(load_pim_device("HBM-PIM"), 5, ops)
    n = shape.num_decodes
    now = Decodes(n, shape.decode_kv_tokens, shape.decode_kv_max, (100,) * n)
    later = Decodes(n, shape.decode_kv_tokens + n * more, shape.decode_kv_max + more, (100,) * n)
    assert attention.step_ns(later) > attention.step_ns(now)
    assert lss().step_ns(later) == lss().step_ns(now)
    assert lss(kv_grows=True).step_ns(later) > lss(kv_grows=True).step_ns(now)


def lss(memory: str = "DDR4_8GB_3200_pim", channels: int = 64, **options: Any) -> LssPimAttention:
    """Return LLMServingSim's attention of Llama-3.1-8B."""
    return LssPimAttention(
        memory, channels, 25.6 * channels, 13.86, num_heads=32, num_kv_heads=8, head_dim=128, num_layers=32, **options
    )


def test_lss_takes_what_llmservingsim_takes() -> None:
    """Per layer 4,264 ns for a prompt of 10 tokens and 4,764 for one of 22, as its predictions show."""
    assert lss().step_ns(Decodes(1, 50, 50, (10,))) == 32 * 4264
    assert lss().step_ns(Decodes(3, 90, 50, (10, 22, 16))) == 32 * 4764
    assert lss().step_ns(Decodes(0, 0)) == 0


@given(prompts=st.lists(st.integers(1, 4000), min_size=1, max_size=40), channels=st.integers(1, 64))
def test_lss_gives_work_to_the_least_loaded_channel(prompts: list[int], channels: int) -> None:
    """The slowest channel is what a plain reading of its rule gives."""
    attention = lss(channels=channels)
    split = min(channels, 8)
    io_ns = 13 + int((12288 + 8192) / split / int(25.6 * channels))
    loads = [0] * channels
    for prompt in sorted(prompts, reverse=True):
        entry = int((333.2538 * prompt + 30675.2739) / split) + io_ns
        for _ in range(split):
            loads[loads.index(min(loads))] += entry
    assert attention.step_ns(Decodes(len(prompts), 0, 0, tuple(prompts))) == 32 * max(loads)


def test_lss_energy_is_peak_less_idle_power_for_as_long_as_channels_work() -> None:
    """A request works on eight channels at 3.18 W more than idle, or counts on one; with growing KV it takes more."""
    attention = lss(active_w=3.18)
    once, two = StepShape(1, 50, (), 50, 50, 0, (10,)), StepShape(2, 50, (), 50, 50, 0, (10, 10))
    entry_j = 32 * (333.2538 * 10 + 30675.2739) / 8 * 1e-9 * 3.18
    columns = StepColumns.of_shapes([once, two])
    assert attention.steps_j(columns).tolist() == pytest.approx([8 * entry_j, 16 * entry_j])
    assert lss(active_w=3.18, charged="requests").steps_j(columns)[0] == pytest.approx(entry_j)
    assert lss(active_w=3.18, kv_grows=True).steps_j(columns)[0] > 8 * entry_j
    assert attention.link_bytes(columns)[1] == 2 * 32 * (12288 + 8192)
    with pytest.raises(InputError, match=r"pim\.charged: unknown way to charge energy 'entry'"):
        lss(charged="entry")


def test_lss_has_coefficients_for_four_memories() -> None:
    """Another name is refused with those that there are."""
    with pytest.raises(InputError, match="did you mean 'HBM2_1GB_2000_pim'"):
        lss("HBM2_1GB_2000")


@given(a=st.floats(1, 1e6), b=st.floats(1, 1e6), p=st.floats(0, 1e6), q=st.floats(0, 1e6), layers=st.integers(1, 100))
def test_halves_in_turns_take_as_long_as_their_busiest_resource(
    a: float, b: float, p: float, q: float, layers: int
) -> None:
    """At least what the accelerator does, at least each half by itself; at most everything one after the other."""
    time_ns = makespan_ns(Half(a, p), Half(b, q), layers)
    slack = 1 + 1e-9
    assert time_ns * slack >= max(a + b, a + p, b + q, (p + q) + min(a, b) / layers / 2)
    assert time_ns <= (a + b + p + q) * slack


def test_attention_that_fits_behind_the_other_half_is_free() -> None:
    """And one that is longer than it sets the pace."""
    assert makespan_ns(Half(320, 100), Half(320, 100), 32) == 640
    assert makespan_ns(Half(32, 3200), Half(32, 3200), 32) == pytest.approx(6400, rel=0.01)


@given(shape=step_shapes(max_tokens=512))
def test_interleaving_is_never_slower_than_not(shape: StepShape) -> None:
    """It is chosen step by step by its predicted gain."""
    assert FAST_AUTO.duration_ns(shape) <= FAST_OFF.duration_ns(shape)
    assert FAST_AUTO.interleaves(shape) == (FAST_AUTO.duration_ns(shape) < FAST_OFF.duration_ns(shape)) or (
        FAST_AUTO.duration_ns(shape) == FAST_OFF.duration_ns(shape)
    )


SLOW_MEMORY = {"device": "LPDDR5-PIM", "count": 4}
FAST_AUTO = make(pim=SLOW_MEMORY)
FAST_OFF = make(pim=SLOW_MEMORY, interleaving="off")


def test_interleaving_pays_where_memory_is_slow_and_batches_are_large() -> None:
    """With 256 decodes of 4,000 tokens two halves in turns save a quarter or more; with four short ones nothing."""
    large, small = StepShape(256, 256 * 4000, (), 4000, 4000), StepShape(4, 400, (), 100, 100)
    assert FAST_AUTO.duration_ns(large) < 0.95 * FAST_OFF.duration_ns(large)
    assert FAST_AUTO.interleaves(large)
    assert not FAST_AUTO.interleaves(small)


@given(shape=step_shapes())
def test_halves_hold_what_the_whole_holds(shape: StepShape) -> None:
    """Decodes, their contexts and all chunks, in ours and in LLMServingSim's way."""
    shape.decode_prompts = (7,) * shape.num_decodes
    for split in (halves, lss_halves):
        parts = split(shape)
        if parts is None:
            assert shape.num_sequences < 2
            continue
        assert sum(part.num_decodes for part in parts) == shape.num_decodes
        assert sum(part.decode_kv_tokens for part in parts) == shape.decode_kv_tokens
        assert sorted(parts[0].prefills + parts[1].prefills) == sorted(shape.prefills)
        assert parts[0].decode_prompts + parts[1].decode_prompts == shape.decode_prompts


def test_prompts_and_decodes_attend_at_the_same_time() -> None:
    """On two resources the longer of the two counts; ``overlap: false`` adds them up."""
    shape = StepShape(32, 32 * 2000, ((1024, 4096),), 2000, 2000)
    at_once, in_turn = make(interleaving="off"), make(interleaving="off", overlap=False)
    memory_ns = at_once.attention.step_ns(Decodes(32, 64_000, 2000))
    prefill_ns = ROOFLINE.breakdown_ns(shape)["attention_prefill"]
    saved = in_turn.duration_ns(shape) - at_once.duration_ns(shape)
    assert saved == pytest.approx(min(memory_ns, prefill_ns), abs=2)


def test_keys_and_values_of_prompts_pass_the_way_to_the_memory() -> None:
    """Written once and read back for each later chunk; they cost time only where the way is slower than the rest."""
    slow = make(pim={"device": "CXL-PNM", "count": 1}, interleaving="off")
    fast = make(pim={"device": "HBM-PIM", "count": 5}, interleaving="off")
    late = StepShape(0, 0, ((16, 60_000),))
    way_ns = 60_016 * 131_072 / 64e9 * 1e9
    assert slow.attention.prompts_ns(late.prefills) == pytest.approx(way_ns)
    host_ns = ROOFLINE.breakdown_ns(late)["host"]
    assert slow.duration_ns(late) == pytest.approx(way_ns + host_ns, rel=1e-6)
    assert fast.duration_ns(late) == ROOFLINE.duration_ns(late)


def test_places_are_chosen_by_predicted_time() -> None:
    """A fast memory gets decode attention, the accelerator keeps what it does better, and the user is told."""
    model = make(mapping=None)
    assert model.mapping["attention_decode"] == "pim"
    assert model.mapping["gemm"] == "accelerator"
    assert any("attention_decode -> pim" in notice for notice in model.notices)
    slow = make(mapping=None, pim={"device": "LPDDR5-PIM", "count": 1})
    assert slow.mapping["attention_decode"] == "accelerator"
    shape = StepShape(8, 800, (), 100, 100)
    assert slow.duration_ns(shape) == ROOFLINE.duration_ns(shape)


def test_the_accelerators_work_is_what_is_left_to_it() -> None:
    """Classes that run elsewhere are not among it."""
    shape = StepShape(8, 800, (), 100, 100)
    assert set(ROOFLINE.work(shape)) - set(make().work(shape)) == {"attention_decode"}
    assert make().pim_busy_ns(shape) == make().attention.step_ns(Decodes(8, 800, 100))


def test_a_mapping_may_stand_in_a_file(tmp_path: Path) -> None:
    """It is read strictly."""
    (tmp_path / "map.yaml").write_text("attention_decode: pim\ngemm: host\n", encoding="utf-8")
    assert read_mapping({"path": "map.yaml"}, tmp_path)["gemm"] == "host"
    (tmp_path / "map.yaml").write_text("attention_dcode: pim\n", encoding="utf-8")
    with pytest.raises(InputError, match="did you mean 'attention_decode'"):
        read_mapping({"path": "map.yaml"}, tmp_path)


def test_every_part_of_a_step_has_a_class() -> None:
    """Of dense, latent and expert models; only collectives, launches and the host have none."""
    for name in ("meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-30B-A3B"):
        for op in operators(load_model(name)):
            assert operator_class(op.name) is not None, op.name
    assert operator_class("experts.gate_up_proj") == "experts"
    assert operator_class("shared_experts.down_proj") == "gemm"
    assert operator_class("qk_norm") == "norms"
    assert operator_class("host") is operator_class("all_reduce") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_bytes": 40 * 2**30}, r"KV cache of 40.00 GiB does not fit in GDDR6-AiM: it holds 32.00 GiB.*80.0%"),
        ({"pim": {"device": "AiM"}}, "did you mean 'GDDR6-AiM'"),
        ({"pim": {"devise": "HBM-PIM"}}, "did you mean 'device'"),
        ({"pim": {"device": "HBM-PIM", "count": 0}}, "pim.count: a whole number of at least 1"),
        ({"pim": {}}, "pim: device is missing"),
        ({"pim": {"table": 5}}, "pim.table: the path of a CSV is needed, got 5"),
        ({"mapping": {"gemm": "gpu"}}, "unknown place 'gpu'"),
        ({"mapping": {"gemm": "host"}}, "names no host_device"),
        ({"mapping": {"norms": "pim"}}, "memory has no units"),
        ({"chosen_at": {"decode": 3}}, "did you mean 'decodes'"),
        ({"base": AffineStepModel()}, "does not tell attention from the rest"),
        ({"mapping": {"gemm": "pim"}, "pim": {"device": "GDDR6-AiM", "count": 8}}, "beside .* GiB of weights"),
    ],
)
def test_what_is_impossible_is_refused_with_key_and_figures(options: dict[str, Any], message: str) -> None:
    """Memory that is too small, names that do not exist, places that are not there."""
    with pytest.raises(InputError, match=message):
        make(**options)


def test_results_of_another_simulator_are_read(tmp_path: Path) -> None:
    """Linear between its samples, per layer; a hole in the grid is an error."""
    path = tmp_path / "pim.csv"
    path.write_text(
        "requests,context_tokens,time_ns,energy_nj\n1,0,100,1\n1,1000,1100,11\n8,0,200,8\n8,1000,8200,88\n",
        encoding="utf-8",
    )
    table = TableAttention(path, 32)
    assert table.step_ns(Decodes(1, 500)) == pytest.approx(32 * 600)
    assert table.step_ns(Decodes(8, 8 * 2000)) == pytest.approx(32 * 16200)
    columns = StepColumns.of_shapes([StepShape(8, 8000, (), 1000, 1000), StepShape(0, 0, ((5, 0),))])
    assert table.steps_j(columns).tolist() == pytest.approx([32 * 88e-9, 0.0])
    assert TableAttention(path, 32, None, 2).steps_j(columns)[0] == pytest.approx(2 * 32 * 88e-9)
    model = make(pim={"table": str(path)}, mapping=None)
    assert model.duration_ns(StepShape(8, 8000, (), 1000, 1000)) > 0
    path.write_text("requests,context_tokens,time_ns\n1,0,100\n8,1000,8200\n", encoding="utf-8")
    with pytest.raises(InputError, match="no row for requests"):
        TableAttention(path, 32)
