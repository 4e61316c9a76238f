"""KV capacity: ours and LLMServingSim's formula, and what a model that does not fit is told."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.hardware import device_names, load_device
from servetwin.llm import load_model, model_names
from servetwin.memory import kv_capacity, lss_kv_bytes_per_token, lss_kv_capacity, lss_weight_bytes

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


def test_llmservingsim_halves_kv_in_fp8() -> None:
    """KV in fp8 takes half the bytes; weights in fp32 twice."""
    assert lss_kv_bytes_per_token(LLAMA_8B, dtype="fp8") == 65_536
    assert lss_weight_bytes(LLAMA_8B, dtype="float32") == 2 * 16_060_522_496


def test_llmservingsim_refuses_what_does_not_fit() -> None:
    """A memory smaller than the weights is an error with the numbers."""
    with pytest.raises(InputError, match=r"^npu_mem: .*12884901888 bytes, less 16060522496 bytes of weights"):
        lss_kv_capacity(LLAMA_8B, 12, mem_util=1.0, where="npu_mem")


@pytest.mark.parametrize(("device", "measured_blocks"), [("RTX4090", 2_588), ("RTXA6000", 13_844)])
def test_blocks_are_near_those_that_vllm_found(device: str, measured_blocks: int) -> None:
    """The documented reserve is within 2 % of two servers whose block count is known (Llama-3.1-8B, bf16)."""
    assert kv_capacity(LLAMA_8B, load_device(device)).num_blocks == pytest.approx(measured_blocks, rel=0.02)


def test_a_model_that_does_not_fit_is_told_what_would() -> None:
    """The error has the memory, the weights, the reserve, and the least tensor parallelism that fits."""
    with pytest.raises(InputError) as info:
        kv_capacity(QWEN_32B, load_device("L4"), where="cluster.chat.engine")
    message = str(info.value)
    assert message.startswith("cluster.chat.engine: Qwen/Qwen3-32B does not fit on L4")
    for part in ("20.24 GiB", "61.02 GiB", "1.50 GiB", "it fits from tensor_parallel_size 4 on"):
        assert part in message
    assert kv_capacity(QWEN_32B, load_device("L4"), tensor_parallel_size=4).num_blocks > 0
    with pytest.raises(InputError):
        kv_capacity(QWEN_32B, load_device("L4"), tensor_parallel_size=2)


@pytest.mark.parametrize("utilization", [0, -0.1, 1.01, float("nan")])
def test_utilisation_is_a_share(utilization: float) -> None:
    """A utilisation of 0, above 1 or NaN is refused."""
    with pytest.raises(InputError, match="gpu_memory_utilization must be above 0 and at most 1"):
        kv_capacity(LLAMA_8B, load_device("H100"), gpu_memory_utilization=utilization)


@given(
    model=st.sampled_from(model_names()).map(load_model),
    device=st.sampled_from(device_names()).map(load_device),
    utilization=st.floats(0.3, 1.0),
    block_size=st.sampled_from([1, 16, 32, 128]),
    data=st.data(),
)
def test_parts_fit_and_one_more_block_would_not(model, device, utilization, block_size, data) -> None:  # type: ignore[no-untyped-def]
    """Weights, reserve and blocks fit in the engine's share of the memory; one more block would not."""
    ranks = data.draw(st.sampled_from(model.tensor_parallel_sizes()))
    options = {"tensor_parallel_size": ranks, "gpu_memory_utilization": utilization, "block_size": block_size}
    capacity = None
    with suppress(InputError):
        capacity = kv_capacity(model, device, **options)
    assume(capacity is not None)
    used = capacity.weight_bytes + capacity.reserve_bytes + capacity.num_blocks * capacity.block_bytes
    assert used <= capacity.memory_bytes <= device.memory_bytes * utilization
    assert used + capacity.block_bytes > capacity.memory_bytes
