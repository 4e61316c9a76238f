"""KV capacity: ours and LLMServingSim's formula, and what a model that does not fit is told."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servetwin.calibrate.kv_cases import LOGGED, RTX4090, RTXA6000, fit, kv_capacity_cases
from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.hardware import device_names, load_device
from servetwin.llm import load_model, model_names
from servetwin.memory import (
    Coefficients,
    ProfilingStep,
    kv_capacity,
    lss_kv_bytes_per_token,
    lss_kv_capacity,
    lss_weight_bytes,
)
from servetwin.memory.overheads import driver_bytes

LLAMA_8B = load_model("meta-llama/Llama-3.1-8B")
QWEN_32B = load_model("Qwen/Qwen3-32B")


def test_llmservingsim_llama_8b() -> None:
    """Weights, KV per token and blocks of Llama-3.1-8B on 96 GB are those that LLMServingSim prints."""
    assert lss_weight_bytes(LLAMA_8B) == 16_060_522_496
    assert lss_kv_bytes_per_token(LLAMA_8B) == 131_072
    assert lss_kv_capacity(LLAMA_8B, 96, mem_util=0.9).num_blocks == 36_578


def test_llmservingsim_qwen_32b_on_two_ranks() -> None:
    """The same for Qwen3-32B with tensor_parallel_size 2."""
    capacity = lss_kv_capacity(QWEN_32B, 96, tensor_parallel_size=2)
    assert capacity.weight_bytes == 32_762_767_360
    assert lss_kv_bytes_per_token(QWEN_32B, 2) == 131_072
    assert capacity.num_blocks == 28_614


def test_llmservingsim_older_branch_has_no_utilisation() -> None:
    """The older branch takes the stated memory less the weights."""
    capacity = lss_kv_capacity(LLAMA_8B, 40, mem_util=1.0)
    assert capacity.num_blocks == (40 * GIB - 16_060_522_496) // 2_097_152
    assert capacity.breakdown == {}


def test_llmservingsim_halves_kv_in_fp8() -> None:
    """KV in fp8 takes half the bytes; weights in fp32 twice."""
    assert lss_kv_bytes_per_token(LLAMA_8B, dtype="fp8") == 65_536
    assert lss_weight_bytes(LLAMA_8B, dtype="float32") == 2 * 16_060_522_496


def test_llmservingsim_refuses_what_does_not_fit() -> None:
    """A memory smaller than the weights is an error with the numbers."""
    with pytest.raises(InputError, match=r"^npu_mem: .*12884901888 bytes, less 16060522496 bytes of weights"):
        lss_kv_capacity(LLAMA_8B, 12, mem_util=1.0, where="npu_mem")


def test_blocks_are_those_that_vllm_found() -> None:
    """Within 2 % on both cards: with coefficients from logs, fitted on the other card (both ways), and by default."""
    results = kv_capacity_cases()
    assert [len(result.checks) for result in results] == [2, 1, 1, 2]
    assert [check for result in results for check in result.missed] == []


def test_a_fit_meets_the_card_that_it_is_made_on() -> None:
    """To a block, where the coefficient is not at its bound."""
    assert RTX4090.capacity(fit(RTX4090, "graph_residue_bytes")).num_blocks == RTX4090.blocks
    few = replace(RTXA6000, step=replace(RTXA6000.step, max_num_seqs=128))
    assert few.capacity(fit(few, "library_bytes")).num_blocks == few.blocks
    assert fit(RTXA6000, "library_bytes") == replace(LOGGED, library_bytes=0)


def test_a_model_that_does_not_fit_is_told_what_would() -> None:
    """The error has the memory, the weights, the rest, and the nearest parallelism and format that fit."""
    with pytest.raises(InputError) as info:
        kv_capacity(QWEN_32B, load_device("L4"), where="cluster.chat.engine")
    message = str(info.value)
    assert message.startswith("cluster.chat.engine: Qwen/Qwen3-32B does not fit on L4")
    for part in ("19.87 GiB", "61.02 GiB", "compilation 1.45", "tensor_parallel_size 4 on", "weights in int4"):
        assert part in message
    assert kv_capacity(QWEN_32B, load_device("L4"), tensor_parallel_size=4).num_blocks > 0
    assert kv_capacity(QWEN_32B.with_quantization("awq"), load_device("L4")).num_blocks > 0
    with pytest.raises(InputError):
        kv_capacity(QWEN_32B, load_device("L4"), tensor_parallel_size=2)


def test_a_step_that_is_too_large_is_told_a_smaller_one() -> None:
    """Where activations are what does not fit, a smaller step is proposed, and fits."""
    step = ProfilingStep(max_num_batched_tokens=65_536, max_num_seqs=64, enforce_eager=True)
    with pytest.raises(InputError, match=r"with max_num_batched_tokens 32768$"):
        kv_capacity(LLAMA_8B, load_device("RTX4090"), step=step)
    assert kv_capacity(LLAMA_8B, load_device("RTX4090"), step=replace(step, max_num_batched_tokens=32_768)).num_blocks
    crowd = ProfilingStep(max_num_batched_tokens=4096, max_num_seqs=4096, version="0.13", enforce_eager=True)
    with pytest.raises(InputError, match=r"logits 1\d\.\d\d.*with max_num_seqs 1024$"):
        kv_capacity(LLAMA_8B, load_device("RTX4090"), step=crowd)


def test_more_than_64_ranks_are_not_proposed() -> None:
    """A model that nothing makes fit is told so."""
    with pytest.raises(InputError, match=r"no tensor_parallel_size up to 64 and no smaller format makes it fit$"):
        kv_capacity(QWEN_32B, load_device("RTX4090"), gpu_memory_utilization=0.02)


@pytest.mark.parametrize("utilization", [0, -0.1, 1.01, float("nan")])
def test_utilisation_is_a_share(utilization: float) -> None:
    """A utilisation of 0, above 1 or NaN is refused."""
    with pytest.raises(InputError, match="gpu_memory_utilization must be above 0 and at most 1"):
        kv_capacity(LLAMA_8B, load_device("H100"), gpu_memory_utilization=utilization)


def test_the_context_must_fit_beside_the_engines_share() -> None:
    """As in vLLM, which refuses to start with a utilisation of 1; the share that is proposed works."""
    with pytest.raises(InputError, match=r"no room for the CUDA context .* at most 0\.997$"):
        kv_capacity(LLAMA_8B, load_device("H100"), gpu_memory_utilization=1.0)
    assert kv_capacity(LLAMA_8B, load_device("H100"), gpu_memory_utilization=0.997).num_blocks > 0


def test_a_reserve_of_ones_own_stands_for_all_parts() -> None:
    """Nothing else is worked out then."""
    capacity = kv_capacity(LLAMA_8B, load_device("A10"), reserve_bytes=GIB)
    assert capacity.parts == {"reserve": GIB}
    assert capacity.reserve_bytes == GIB


@given(
    model=st.sampled_from(model_names()).map(load_model),
    device=st.sampled_from(device_names()).map(load_device),
    utilization=st.floats(0.3, 1.0),
    block_size=st.sampled_from([1, 16, 32, 128]),
    version=st.sampled_from(["0.11", "0.13", "0.17", "0.19", "0.20"]),
    eager=st.booleans(),
    data=st.data(),
)
def test_parts_fit_and_one_more_block_would_not(  # type: ignore[no-untyped-def]
    model, device, utilization, block_size, version, eager, data
) -> None:
    """The parts add up to the device's memory, none is negative, and one more block would not fit."""
    ranks = data.draw(st.sampled_from(model.tensor_parallel_sizes()))
    options = {"tensor_parallel_size": ranks, "gpu_memory_utilization": utilization, "block_size": block_size}
    capacity = None
    with suppress(InputError):
        capacity = kv_capacity(model, device, step=ProfilingStep(version=version, enforce_eager=eager), **options)
    assume(capacity is not None)
    assert capacity is not None
    assert sum(capacity.breakdown.values()) == device.memory_bytes
    assert min(capacity.breakdown.values()) >= 0
    assert sum(capacity.parts.values()) == capacity.reserve_bytes
    assert capacity.breakdown["rest"] < capacity.block_bytes
    assert capacity.memory_bytes <= (device.memory_bytes - driver_bytes(device)) * utilization


@given(
    model=st.sampled_from(model_names()).map(load_model),
    tokens=st.sampled_from([512, 2048, 8192]),
    sequences=st.sampled_from([8, 128, 256]),
    version=st.sampled_from(["0.11", "0.13", "0.19"]),
    eager=st.booleans(),
)
def test_larger_steps_leave_less(model, tokens, sequences, version, eager) -> None:  # type: ignore[no-untyped-def]
    """More tokens or sequences never leave more blocks; neither does compiling, nor a newer driver's larger part."""
    device, ranks = load_device("B300"), model.tensor_parallel_sizes()[-1]
    step = ProfilingStep(tokens, sequences, version=version, enforce_eager=eager)

    def blocks(step: ProfilingStep, coefficients: Coefficients = LOGGED) -> int:
        return kv_capacity(model, device, tensor_parallel_size=ranks, step=step, coefficients=coefficients).num_blocks

    least = blocks(step)
    assert least >= blocks(replace(step, max_num_batched_tokens=2 * tokens))
    assert least >= blocks(replace(step, max_num_seqs=2 * sequences))
    assert least <= blocks(replace(step, enforce_eager=True))
    assert least <= blocks(replace(step, warm_compile_cache=True))
    assert least >= blocks(step, replace(LOGGED, library_bytes=GIB))
