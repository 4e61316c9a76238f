"""LLMServingSim's own numbers, to the nanosecond, from its bundles under ../shared/reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from profile_helpers import LssBalanced, decodes

from servetwin.core.errors import InputError
from servetwin.llm.parallel import Parallelism
from servetwin.network import Link, LssRing
from servetwin.step.base import StepShape
from servetwin.step.host import HostOverhead
from servetwin.step.profile import LSS_OPTIONS, ExpertSizes, ModelSizes, ProfileOptions, ProfileStepModel, load_profile
from servetwin.step.profile.lss_experts import LssBlock
from servetwin.step.profile.lss_lookup import LssCurve, LssJointAttention
from servetwin.step.profile.tables import ExpertBlock, JointAttention, SerialRead, SingleExpert

pytestmark = pytest.mark.measured

LLAMA_8B, QWEN_32B = ModelSizes(32, 4096), ModelSizes(64, 5120)
LLAMA, QWEN = "RTXPRO6000/meta-llama/Llama-3.1-8B/bf16", "RTXPRO6000/Qwen/Qwen3-32B/bf16"
QWEN_MOE = "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16"
QWEN_30B = ModelSizes(48, 2048, 2, ExpertSizes(128, 8, 2048, 768))
RTX4090 = "RTX4090/meta-llama/Llama-3.1-8B/bf16"
A6000, TPU = "A6000/meta-llama/Llama-3.1-8B", "TPU-v6e-1/meta-llama/Llama-3.1-8B"


@pytest.fixture(scope="module")
def v1(reference: Path) -> Path:
    """Return the root of the current bundles."""
    return reference / "llmservingsim" / "profiles-v1"


@pytest.fixture(scope="module")
def v0(reference: Path) -> Path:
    """Return the root of the older bundles."""
    return reference / "llmservingsim" / "profiles-v0"


def lss_model(folder: Path, ranks: int, sizes: ModelSizes) -> ProfileStepModel:
    """Return the mirror of LLMServingSim on one bundle; links as in its cluster files."""
    ring = LssRing(Link(16e9, 20_000))
    profile = load_profile(folder, ranks)
    return ProfileStepModel(profile, sizes, options=LSS_OPTIONS, collectives=ring, host=HostOverhead())


def ragged(first: int, last: int, count: int) -> list[int]:
    """Return contexts with the given extremes and the mean between them (rounded down)."""
    return [first + (last - first) * i // (count - 1) for i in range(count)]


GOLDEN = [
    ("A", LLAMA, 1, LLAMA_8B, decodes([], (512, 0)), 23_744_939, 24_917),
    ("B", LLAMA, 1, LLAMA_8B, decodes([1000]), 11_342_593, 14_470),
    ("C", LLAMA, 1, LLAMA_8B, decodes([777] * 100), 20_483_487, 257_896),
    ("D", LLAMA, 1, LLAMA_8B, decodes([4000] * 4 + [500] * 28), 14_837_686, 110_598),
    ("E", LLAMA, 1, LLAMA_8B, decodes([1500] * 64, (1000, 0), (300, 640)), 73_066_884, 602_714),
    ("F", LLAMA, 1, LLAMA_8B, decodes([100 + 37 * i for i in range(63)], (1985, 63)), 97_580_077, 629_406),
    ("G", LLAMA, 2, LLAMA_8B, decodes([1500] * 64, (1000, 0)), 32_540_645, 278_408),
    ("H", QWEN, 2, QWEN_32B, decodes([2000] * 128), 52_961_420, 398_565),
    ("I", RTX4090, 1, LLAMA_8B, decodes(ragged(300, 2250, 40), (1800, 0)), 197_091_424, 822_938),
    ("M", LLAMA, 1, LLAMA_8B, decodes([30_000] * 10, (3000, 20_000)), 180_524_202, 3_079_995),
]


@pytest.mark.parametrize(("name", "bundle", "ranks", "sizes", "shape", "total", "attention"), GOLDEN)
def test_golden_vectors(
    v1: Path, name: str, bundle: str, ranks: int, sizes: ModelSizes, shape: StepShape, total: int, attention: int
) -> None:
    """The mirror's total (without collectives) and attention of one layer equal LLMServingSim's, to the nanosecond."""
    parts = lss_model(v1 / bundle, ranks, sizes).breakdown_ns(shape)
    assert parts["attention"] == attention * sizes.num_layers
    assert sum(parts.values()) - parts.get("all_reduce", 0) == total


class Sizes:
    """Collectives that take their bytes, as time and for a note of who was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[float, int, int]] = {}

    def __getattr__(self, name: str) -> object:
        def asked(num_bytes: float, ranks: int = 1, stride: int = 1) -> float:
            if ranks > 1:
                self.asked[name] = (num_bytes, ranks, stride)
            return num_bytes if ranks > 1 else 0.0

        return asked


MOE_GOLDEN = [
    ("J", 1, Parallelism(1), decodes([1200] * 64), 48_820_834, 827_810, {}),
    ("K", 2, Parallelism(2, expert=2), decodes([1200] * 64, (700, 0)), 40_130_455, 524_529,
     {"all_reduce_ns": (3_129_344, 2, 1), "all_gather_ns": (2 * 1_662_464, 2, 1),
      "reduce_scatter_ns": (3_129_344, 2, 1)}),
    ("L", 1, Parallelism(1, expert=2, data=2), decodes([1200] * 64, (700, 0)), 51_728_855, 524_529,
     {"all_gather_ns": (2 * 1_662_464, 2, 1), "reduce_scatter_ns": (3_129_344, 2, 1)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "degree", "ranks", "shape", "total", "expert", "sent"), MOE_GOLDEN)
def test_golden_vectors_of_experts(
    v1: Path,
    name: str,
    degree: int,
    ranks: Parallelism,
    shape: StepShape,
    total: int,
    expert: int,
    sent: dict[str, tuple[float, int, int]],
) -> None:
    """Totals without collectives, the slowest rank's block and the bytes of each collective equal LLMServingSim's.

    Its all-gather is counted by one rank's part, ours by the gathered tensor.
    """
    sizes = Sizes()
    model = ProfileStepModel(
        load_profile(v1 / QWEN_MOE, degree),
        QWEN_30B,
        options=LSS_OPTIONS,
        collectives=sizes,  # type: ignore[arg-type]
        host=HostOverhead(),
        ranks=ranks,
        experts=LssBalanced(ranks.expert, ExpertSizes(128, 8, 2048, 768)),
    )
    parts = model.breakdown_ns(shape)
    assert parts["experts"] == 48 * expert
    assert sum(v for key, v in parts.items() if key not in ("all_reduce", "dispatch", "combine")) == total
    assert sizes.asked == sent
    assert parts["dispatch"] == 48 * sent.get("all_gather_ns", (0,))[0]


def test_expert_lookups(v1: Path) -> None:
    """Blocks on, off and beyond the grid equal LLMServingSim's."""
    table = load_profile(v1 / QWEN_MOE).experts
    assert isinstance(table, ExpertBlock)
    known = {
        (64, 128): 827_810, (64, 64): 432_672, (700, 64): 518_498, (100, 100): 667_656, (5000, 128): 1_344_070,
        (3, 20): 159_902, (2048, 8): 578_466,
    }  # fmt: skip
    assert {key: LssBlock(table).at(*key) for key in known} == known


def test_one_expert_of_the_older_bundles_is_whole_at_every_degree(v0: Path) -> None:
    """One expert's times at degree 2 are those of degree 1: they are not divided."""
    whole, half = (load_profile(v0 / "A6000/microsoft/Phi-mini-MoE-instruct", degree).experts for degree in (1, 2))
    assert isinstance(whole, SingleExpert)
    assert isinstance(half, SingleExpert)
    assert half.expert.time_ns.mean() == pytest.approx(whole.expert.time_ns.mean(), rel=0.1)


HAND = [
    # 32 x (774,543 dense + 189,931 decode at (64, 832)) + embedding 5,045 + final norm 25,923 + LM head 1,465,618
    (A6000, decodes([777] * 64), 32_359_754),
    # 32 x (2,613,158 + 42,913 decode at (10, 320) + 390,670 prefill at (0, 512)) + 26,839 + 124,601 + 1,422,917
    (A6000, decodes([300] * 10, (500, 0)), 99_070_069),
    # 32 x (380,393, up_proj from its first row, 313 + 120,663 decode at (8, 1024) + 31,887 prefill at (64, 224))
    # + 13,887 + 1,023 + 673,193
    (TPU, decodes([1000] * 8, (100, 0), (200, 64)), 17_742_279),
]


@pytest.mark.parametrize(("bundle", "shape", "total"), HAND)
def test_older_bundles_by_hand(v0: Path, bundle: str, shape: StepShape, total: int) -> None:
    """Totals of the older bundles equal what one adds up from the rows of the files."""
    assert lss_model(v0 / bundle, 1, LLAMA_8B).duration_ns(shape) == total


def test_attention_and_dense_lookups(v1: Path) -> None:
    """Single lookups on, off and beyond the grid equal LLMServingSim's."""
    profile = load_profile(v1 / LLAMA, 1)
    assert isinstance(profile.attention, JointAttention)
    table = LssJointAttention(profile.attention)
    known = {
        (1000, 0, 0, 0): 59_837, (96, 0, 0, 0): 8_291, (100, 300, 5, 700): 35_541, (2048, 0, 200, 1024): 1_031_170,
        (2048, 16384, 0, 0): 2_138_070, (0, 0, 256, 16384): 11_238_900, (4096, 0, 0, 0): 407_876,
        (0, 0, 300, 100): 118_295,
    }  # fmt: skip
    assert {key: table.at(*key) for key in known} == known
    qkv = {1: 35_830, 17: 37_772, 100: 42_688, 2047: 302_951, 4096: 331_509}
    assert {tokens: LssCurve(profile.dense["qkv_proj"])(tokens) for tokens in qkv} == qkv
    split = load_profile(v1 / LLAMA, 2)
    assert [LssCurve(split.dense["qkv_proj"])(tokens) for tokens in (1, 4096)] == [21_824, 129_024]
    assert [LssCurve(p.dense["layernorm"])(333) for p in (profile, split)] == [3_938, 3_938]
    heads = {17: (698_137, 28_981), 200: (819_064, 123_232), 256: (831_491, 164_150), 400: (875_942, 282_041)}
    lm_head, sampler = (LssCurve(profile.per_sequence[layer]) for layer in ("lm_head", "sampler"))
    assert {count: (lm_head(count), sampler(count)) for count in heads} == heads


def test_skew_lookup(v1: Path) -> None:
    """The share of the way to the longest context comes from the bucket of a profiled chunk (FORMATS 5.9)."""
    model = lss_model(v1 / LLAMA, 2, LLAMA_8B)
    shape = StepShape(17, 17_000, ((512, 0),), 5000, 10)
    assert model.breakdown_ns(shape)["attention"] == 32 * 112_621


def test_negative_slope_is_not_ours(v1: Path) -> None:
    """Beyond the grid our dense times grow where LLMServingSim's last two noisy samples make them fall."""
    folder = v1 / LLAMA
    ours = ProfileStepModel(load_profile(folder, 2), LLAMA_8B, collectives=LssRing(Link(16e9, 0)))
    parts = {tokens: ours.breakdown_ns(decodes([], (tokens, 0)))["qkv_proj"] for tokens in (2048, 4096)}
    assert 1.5 < parts[4096] / parts[2048] < 2.2


def test_decodes_beside_a_chunk_go_on_beyond_128(v1: Path) -> None:
    """The corner that was not measured (a chunk beside 256 decodes) grows with the decodes instead of staying flat."""
    model = ProfileStepModel(load_profile(v1 / LLAMA, 1), LLAMA_8B)
    at = {n: model.breakdown_ns(decodes([1024] * n, (2048, 0)))["attention"] / 32 for n in (64, 128, 200, 256)}
    assert at[200] - at[128] == pytest.approx((at[128] - at[64]) * 72 / 64, rel=0.02)
    assert at[256] > at[200]


@pytest.mark.parametrize(
    ("bundle", "ranks", "first"), [(LLAMA, 1, 38), (LLAMA, 2, 75), (QWEN, 2, 75), (RTX4090, 1, 26)]
)
def test_serial_read_from_skew_measurements(v1: Path, bundle: str, ranks: int, first: int) -> None:
    """All bundles agree on how fast a thread block reads a sequence; when it has to follows from the device."""
    serial = load_profile(v1 / bundle, ranks).serial
    assert serial is not None
    assert serial == SerialRead(first, pytest.approx(61, abs=2))


def test_what_the_tpu_table_lacks_is_said_once(v0: Path) -> None:
    """Layers that are fused or not measured on TPU take no time, with one notice each."""
    notices = ProfileStepModel(load_profile(v0 / TPU), LLAMA_8B).notices
    for layer in ("k_proj", "v_proj", "up_proj", "act_fn", "sampler"):
        assert sum(layer in notice for notice in notices) == 1
    assert len(notices) == 5


def test_missing_degree_and_model(v1: Path, v0: Path) -> None:
    """A degree or a model that was not profiled is an error that names those that were."""
    with pytest.raises(InputError, match=r"tensor_parallel_size 4; degrees that exist: 1, 2"):
        load_profile(v1 / LLAMA, 4)
    with pytest.raises(InputError, match=r"folders beside it: .*Llama-3.1-8B"):
        load_profile(v0 / "A6000/meta-llama/Llama-3.1-7B")


def test_model_folder_stands_for_its_only_variant(v1: Path) -> None:
    """The folder of a model with one variant can be given instead of the variant's."""
    assert load_profile((v1 / LLAMA).parent).source == load_profile(v1 / LLAMA).source


def test_default_reading_of_a_table_is_near_its_rows(v1: Path) -> None:
    """Smoothing and filling leave nearly all measured attention rows as they are (from 32 decodes, 512 tokens on)."""
    profile = load_profile(v1 / LLAMA)
    model = ProfileStepModel(profile, ModelSizes(1, 4096), options=ProfileOptions(skew="none"))
    table = profile.attention
    assert isinstance(table, JointAttention)
    keys = (table.prefill_chunk, table.kv_prefill, table.num_decodes, table.kv_decode)
    rows = list(zip(*keys, table.time_ns, strict=True))
    errors = []
    for chunk, context, count, kv, time in (row for row in rows[::7] if row[2] >= 32 and row[3] >= 512):
        prefills = ((int(chunk), int(context)),) if chunk else ()
        shape = StepShape(int(count), int(count * kv), prefills)
        errors.append(abs(model.breakdown_ns(shape)["attention"] / time - 1))
    assert sorted(errors)[int(len(errors) * 0.8)] < 0.02
    assert sorted(errors)[int(len(errors) * 0.95)] < 0.06
