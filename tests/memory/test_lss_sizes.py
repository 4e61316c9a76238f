"""LLMServingSim's weights and KV capacity with pipeline stages and experts (FORMATS, section 3.2)."""

from __future__ import annotations

import pytest

from servetwin.llm import load_model
from servetwin.memory import lss_kv_bytes_per_token, lss_kv_capacity, lss_weight_bytes

QWEN_30B = load_model("Qwen/Qwen3-30B-A3B")
LLAMA_8B = load_model("meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(
    ("tensor", "weights", "per_token", "blocks"),
    [(1, 32_073_191_424, 98_304, 38_590), (2, 30_544_891_904, 49_152, 79_124)],
)
def test_experts_are_divided_by_expert_parallelism_alone(
    tensor: int, weights: int, per_token: int, blocks: int
) -> None:
    """Weights, KV per token and blocks of Qwen3-30B-A3B at expert parallelism 2 are LLMServingSim's."""
    assert lss_weight_bytes(QWEN_30B, tensor, expert_parallel_size=2) == weights
    assert lss_kv_bytes_per_token(QWEN_30B, tensor) == per_token
    capacity = lss_kv_capacity(QWEN_30B, 96, tensor_parallel_size=tensor, expert_parallel_size=2)
    assert capacity.num_blocks == blocks


def test_each_stage_counts_embedding_and_head() -> None:
    """Weights, KV per token and blocks of Llama-3.1-8B at TP 2 x PP 2 are LLMServingSim's."""
    assert lss_weight_bytes(LLAMA_8B, 2, pipeline_parallel_size=2) == 4_540_604_416
    assert lss_kv_bytes_per_token(LLAMA_8B, 2, pipeline_parallel_size=2) == 32_768
    capacity = lss_kv_capacity(LLAMA_8B, 96, tensor_parallel_size=2, pipeline_parallel_size=2)
    assert capacity.num_blocks == 168_286
