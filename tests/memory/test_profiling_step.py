"""What vLLM's profiling step takes, part by part and by version, against tensors counted by hand."""

from __future__ import annotations

import pytest

from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.llm import load_model
from servetwin.llm.config import read_config
from servetwin.llm.parallel import Parallelism
from servetwin.memory import Coefficients, ProfilingStep
from servetwin.memory.activations import peak_by_phase
from servetwin.memory.kv_capacity import rotary_cache_bytes
from servetwin.memory.overheads import collective_bytes, driver_bytes, graph_bytes, non_torch_bytes

MIB = 2**20
LLAMA_8B = load_model("meta-llama/Llama-3.1-8B")
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
RTX4090, H100 = load_device("RTX4090"), load_device("H100")


def logits(step: ProfilingStep, ranks: int = 1) -> int:
    """Return the bytes of logits and sampler."""
    return peak_by_phase(LLAMA_8B, RTX4090, Parallelism(ranks), step)["sampling"]["logits"]


@pytest.mark.parametrize(
    ("version", "sequences", "bytes_per_logit"),
    [("0.13", 256, 38), ("0.13", 128, 38), ("0.13", 64, 50), ("0.19", 256, 14), ("0.19", 4, 50)],
)
def test_sampler_by_version_and_rows(version: str, sequences: int, bytes_per_logit: int) -> None:
    """Sorting takes 38 bytes per logit from 128 rows on and 50 below; the Triton kernel 14 and a row per program."""
    buffer = 4 * 128 * LLAMA_8B.vocab_size if bytes_per_logit == 14 else 0
    expected = bytes_per_logit * sequences * LLAMA_8B.vocab_size + buffer
    assert logits(ProfilingStep(max_num_seqs=sequences, version=version)) == expected


def test_every_rank_samples_from_all_logits() -> None:
    """Tensor parallelism divides the LM head, not the gathered logits."""
    assert logits(ProfilingStep(), ranks=8) == logits(ProfilingStep())


def test_the_forward_pass_of_a_dense_model() -> None:
    """Hidden states and residual, gate and up and their product, and cuBLAS's workspace."""
    step = ProfilingStep(max_num_batched_tokens=8192)
    expected = 8192 * 2 * (2 * 4096 + 3 * 14336) + 65 * MIB // 8
    assert peak_by_phase(LLAMA_8B, RTX4090, Parallelism(1), step)["forward"] == {"activations": expected}
    half = peak_by_phase(LLAMA_8B, H100, Parallelism(2), step)["forward"]["activations"]
    assert half == 8192 * 2 * (3 * 4096 + 3 * 7168) + 32 * MIB


def test_experts_take_buffers_for_each_that_a_token_visits() -> None:
    """Mixtral: two of 14,336 each; buffers shrink with tensor parallelism."""
    mixtral, step = read_config(MIXTRAL, name="Mixtral", where="mixtral.json"), ProfilingStep()
    forward = peak_by_phase(mixtral, RTX4090, Parallelism(1), step)["forward"]["activations"]
    assert forward == 2048 * 2 * (2 * 4096 + 2 * 8 + 4096 + 2 * 3 * 14336) + 65 * MIB // 8
    assert peak_by_phase(mixtral, RTX4090, Parallelism(4), step)["forward"]["activations"] < forward


def test_a_first_start_compiles_within_the_step() -> None:
    """From 0.12 on a copy of the rank's embedding counts, unless eager or compiled before."""
    embedding = 128_256 * 4096 * 2
    assert peak_by_phase(LLAMA_8B, H100, Parallelism(1), ProfilingStep())["compilation"]["compilation"] == embedding
    quarter = peak_by_phase(LLAMA_8B, H100, Parallelism(4), ProfilingStep())["compilation"]["compilation"]
    assert quarter == embedding // 4
    for step in (
        ProfilingStep(version="0.11"),
        ProfilingStep(enforce_eager=True),
        ProfilingStep(warm_compile_cache=True),
    ):
        assert "compilation" not in peak_by_phase(LLAMA_8B, H100, Parallelism(1), step)


def test_the_rotary_table_is_loaded_with_the_weights() -> None:
    """Llama-3.1-8B: vLLM logs 14.9889 GiB; 131,072 rows of 128."""
    loaded = LLAMA_8B.weight_bytes() + rotary_cache_bytes(LLAMA_8B)
    assert rotary_cache_bytes(LLAMA_8B) == 32 * MIB
    assert loaded / 2**30 == pytest.approx(14.9889, abs=0.0005)


def test_cuda_graphs_by_version() -> None:
    """Profiled from 0.18 on, counted from 0.20 on, never in eager mode or on ROCm."""
    coefficients = Coefficients()
    by_version = {name: ProfilingStep(version=name) for name in ("0.17", "0.18", "0.19", "0.20")}
    residues = [non_torch_bytes(H100, step, coefficients) - coefficients.library_bytes for step in by_version.values()]
    assert residues == [0, *[coefficients.graph_residue_bytes] * 3]
    assert [graph_bytes(LLAMA_8B, H100, step) for step in by_version.values()] == [0, 0, 0, (51 + 35) * 32 * MIB // 4]
    eager = ProfilingStep(version="0.20", enforce_eager=True)
    assert graph_bytes(LLAMA_8B, H100, eager) == 0
    assert graph_bytes(LLAMA_8B, load_device("MI300X"), by_version["0.20"]) == 0
    assert non_torch_bytes(load_device("MI300X"), by_version["0.19"], coefficients) == coefficients.library_bytes
    assert graph_bytes(LLAMA_8B, H100, ProfilingStep(max_num_seqs=16, version="0.20")) == (7 + 5) * 32 * MIB // 4


def test_collectives_by_link() -> None:
    """Nothing on one rank; more channels over NVLink than over PCIe."""
    assert collective_bytes(H100, 1) == 0
    assert collective_bytes(H100, 2) > collective_bytes(RTX4090, 2) > 0


@pytest.mark.parametrize(
    ("device", "cuda_gib"),
    [
        ("RTX3090", (23.56, 23.69)),
        ("RTX4090", (23.52, 23.64)),
        ("RTXA6000", (47.40, 47.54)),
        ("L4", (22.03, 22.06)),
        ("L40S", (44.39, 44.53)),
        ("H100", (79.11, 79.19)),
        ("H200", (139.81, 139.81)),
        ("RTXPRO6000", (94.97, 94.97)),
        ("B200", (178.35, 178.35)),
    ],
)
def test_what_cuda_reports_of_a_card(device: str, cuda_gib: tuple[float, float]) -> None:
    """Within 0.15 % of the totals that PyTorch prints, or 0.05 GiB."""
    sheet = load_device(device)
    total = (sheet.memory_bytes - driver_bytes(sheet)) / 2**30
    tolerance = max(0.05, 0.0015 * total)
    assert cuda_gib[0] - tolerance <= total <= cuda_gib[1] + tolerance


@pytest.mark.parametrize("version", ["0.10", "0.8.5", "1", "new"])
def test_unknown_versions_are_refused(version: str) -> None:
    """What is older is counted otherwise; what is no version is said to be none."""
    with pytest.raises(InputError, match=r"0\.11 and later|a version such as 0\.19"):
        ProfilingStep(version=version)


@pytest.mark.parametrize("value", [-1, 2**30 + 1])
def test_coefficients_are_bounded(value: int) -> None:
    """From 0 to 1 GiB."""
    with pytest.raises(InputError, match="graph_residue_bytes must be from 0"):
        Coefficients(graph_residue_bytes=value)
